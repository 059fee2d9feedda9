"""One random head: its shape, its ventricles, its lesions, drawn from a seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from demo.fields import Affine, FloatArray, Point, SmoothField, rotation_from_degrees

SEQUENCES = ("T1c", "T1", "T2", "FLAIR")

# Signal of each tissue by sequence, white matter near 0.4 to 0.7; textbook order at 1.5-3 T:
# T1 white > grey > CSF, T2 the reverse, FLAIR with CSF nulled, contrast where blood or a
# broken barrier is.
SIGNAL: Mapping[str, tuple[float, float, float, float]] = {
    #              T1c   T1    T2    FLAIR
    "scalp": (0.98, 0.95, 0.55, 0.60),
    "skull": (0.16, 0.14, 0.08, 0.08),
    "soft": (0.45, 0.42, 0.30, 0.36),
    "csf": (0.18, 0.17, 1.00, 0.10),
    "grey": (0.54, 0.50, 0.57, 0.58),
    "white": (0.74, 0.71, 0.40, 0.44),
    "caps": (0.66, 0.62, 0.52, 0.70),
    "vessel": (1.05, 0.30, 0.12, 0.12),
    "choroid": (0.90, 0.40, 0.70, 0.45),
    "capsule": (1.05, 1.05, 0.90, 0.80),
    "edema": (0.54, 0.52, 0.80, 0.95),
    "rim": (1.10, 0.50, 0.62, 0.70),
    "necrosis": (0.30, 0.28, 0.88, 0.42),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Ellipsoid:
    """A solid ellipsoid.

    Parameters
    ----------
    radii_mm : Point
        Along its own axes.
    axes : (3, 3) float64
        Head coordinates -> its own axes.
    """

    centre_mm: Point
    radii_mm: Point
    axes: Affine

    def depth_mm(self, x: FloatArray) -> FloatArray:
        """Signed distance to the surface to first order, positive inside.

        Parameters
        ----------
        x : (3, ...) float32
            Head coordinates, mm.
        """
        to_unit = (self.axes / np.array(self.radii_mm)[:, None]).astype(np.float32)
        centre = np.array(self.centre_mm, np.float32).reshape(3, *[1] * (x.ndim - 1))
        unit = np.tensordot(to_unit, x - centre, axes=1)
        f = np.sqrt(np.square(unit).sum(0)) + np.float32(1e-6)
        gradient = np.tensordot(to_unit.T, unit, axes=1)
        steepness = np.sqrt(np.square(gradient).sum(0)) / f + np.float32(1e-6)
        # Far inside, the gradient vanishes and the estimate explodes: the radius bounds it.
        depth: FloatArray = np.minimum((1 - f) / steepness, np.float32(max(self.radii_mm)))
        return depth


@dataclass(frozen=True, kw_only=True, eq=False)
class Lesion:
    """A tumour: necrotic core, enhancing rim, oedema around, each with its own rough border."""

    body: Ellipsoid
    radius_mm: float
    rim_mm: float
    edema_mm: float
    body_noise: SmoothField
    core_noise: SmoothField
    edema_noise: SmoothField

    @property
    def reach_mm(self) -> float:
        """No voxel farther than this from the centre belongs to the lesion."""
        return max(self.body.radii_mm) + self.edema_mm + 14.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Anatomy:
    """Everything that decides what a head looks like; noise and gain belong to the scan."""

    seed: int
    hull: Ellipsoid
    face: Ellipsoid
    ventricles: tuple[Ellipsoid, ...]
    nuclei: tuple[Ellipsoid, ...]
    eyes: tuple[Ellipsoid, ...]
    choroid: tuple[Ellipsoid, ...]
    capsule: Ellipsoid
    csf_mm: float
    skull_mm: float
    scalp_mm: float
    cortex_mm: float
    sulcus_mm: float
    shape_noise: SmoothField
    fold_noise: SmoothField
    vessel_noise: tuple[SmoothField, SmoothField]
    texture_noise: SmoothField
    signal: Mapping[str, tuple[float, ...]]
    lesions: tuple[Lesion, ...]


def draw_anatomy(seed: int, *, lesions: int | None = None) -> Anatomy:
    """Draw one head.

    Parameters
    ----------
    seed : int
        The same seed gives the same head on every machine.
    lesions : int, optional
        How many tumours; drawn (0 to 3, mostly 1) when not given.
    """
    rng = np.random.default_rng([20_240_501, seed])
    size = rng.uniform(0.94, 1.06)
    hull = _ellipsoid(rng, (0, 0, 5), np.array([66, 84, 64]) * size * rng.uniform(0.96, 1.04, 3))
    count = int(rng.choice(4, p=[0.12, 0.64, 0.18, 0.06])) if lesions is None else lesions
    ventricles = _draw_ventricles(rng, size)
    return Anatomy(
        seed=seed,
        hull=hull,
        face=_ellipsoid(rng, (0, 44, -58), np.array([58, 44, 48]) * size),
        ventricles=ventricles,
        nuclei=_draw_nuclei(rng, size),
        eyes=tuple(
            _ellipsoid(rng, (side * 31 * size, 64 * size, -40), (12, 12, 12)) for side in (-1, 1)
        ),
        choroid=tuple(
            _ellipsoid(rng, np.add(v.centre_mm, (0, -12, -2)), (2.2, 6, 2.2))
            for v in ventricles[:2]
        ),
        # A fish-oil capsule taped to the patient's left temple (-x in RAS), as many sites do to
        # tell left from right.
        capsule=_ellipsoid(rng, (-(hull.radii_mm[0] + 17), 8, 12), (5, 7, 5)),
        csf_mm=rng.uniform(2.0, 3.5),
        skull_mm=rng.uniform(5.0, 8.0),
        scalp_mm=rng.uniform(4.0, 7.0),
        cortex_mm=rng.uniform(2.8, 3.8),
        sulcus_mm=rng.uniform(0.7, 1.5),
        shape_noise=SmoothField.random(rng, 18.0),
        fold_noise=SmoothField.random(rng, 4.5),
        vessel_noise=(SmoothField.random(rng, 9.0), SmoothField.random(rng, 9.0)),
        texture_noise=SmoothField.random(rng, 6.0),
        signal={name: _jittered(rng, values) for name, values in SIGNAL.items()},
        lesions=_draw_lesions(rng, hull, count),
    )


def _ellipsoid(
    rng: np.random.Generator, centre: npt.ArrayLike, radii: npt.ArrayLike, *, tilt: float = 5.0
) -> Ellipsoid:
    c = np.asarray(centre, float)
    r = np.asarray(radii, float)
    return Ellipsoid(
        centre_mm=(float(c[0]), float(c[1]), float(c[2])),
        radii_mm=(float(r[0]), float(r[1]), float(r[2])),
        axes=rotation_from_degrees(rng.uniform(-tilt, tilt, 3)),
    )


def _jittered(rng: np.random.Generator, values: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(float(v * rng.uniform(0.94, 1.06)) for v in values)


def _draw_ventricles(rng: np.random.Generator, size: float) -> tuple[Ellipsoid, ...]:
    # The patient's right one is always clearly the larger: a mirrored image is a visible mistake.
    left = rng.uniform(0.75, 1.0) * size
    right = left * rng.uniform(1.35, 1.75)
    lateral = [
        _ellipsoid(
            rng, (side * (8 + 5 * s), -4, 12), np.array([5.5, 30, 8]) * [s, 0.8 + 0.2 * s, s]
        )
        for side, s in ((-1, left), (1, right))
    ]
    horn = [
        _ellipsoid(rng, (side * (10 + 9 * s), -30, 0), np.array([5, 12, 10]) * s, tilt=15)
        for side, s in ((-1, left), (1, right))
    ]
    third = _ellipsoid(rng, (0, -6, -6), (2.5, 12, 8))
    return (*lateral, *horn, third)


def _draw_nuclei(rng: np.random.Generator, size: float) -> tuple[Ellipsoid, ...]:
    nuclei = []
    for side in (-1, 1):
        nuclei.append(_ellipsoid(rng, (side * 13 * size, -12, -2), (8, 13, 9)))
        nuclei.append(_ellipsoid(rng, (side * 27 * size, 6, 0), (6, 15, 9), tilt=12))
    return tuple(nuclei)


def _draw_lesions(rng: np.random.Generator, hull: Ellipsoid, count: int) -> tuple[Lesion, ...]:
    placed: list[Lesion] = []
    for _ in range(200):
        if len(placed) == count:
            break
        lesion = _draw_lesion(rng, hull)
        if all(_are_apart(lesion, other) for other in placed):
            placed.append(lesion)
    return tuple(placed)


def _are_apart(one: Lesion, other: Lesion) -> bool:
    gap = np.linalg.norm(np.subtract(one.body.centre_mm, other.body.centre_mm))
    return bool(gap > one.radius_mm + other.radius_mm + 12)


def _draw_lesion(rng: np.random.Generator, hull: Ellipsoid) -> Lesion:
    radius = rng.uniform(13.0, 23.0)
    direction = rng.standard_normal(3)
    direction /= np.linalg.norm(direction)
    # Not below the tentorium (this head has no cerebellum worth the name) and wholly inside.
    direction[2] = max(direction[2], -0.35)
    distance = rng.uniform(0.35, 0.72)
    room = np.maximum(np.array(hull.radii_mm) - radius * 0.75, 5.0)
    centre = np.array(hull.centre_mm) + hull.axes.T @ (direction * room * distance)
    body = _ellipsoid(rng, centre, radius * rng.uniform(0.85, 1.18, 3), tilt=180)
    reach = radius * 1.2 + 34

    def noise(sigma_mm: float) -> SmoothField:
        return SmoothField.random(rng, sigma_mm, centre_mm=body.centre_mm, reach_mm=reach)

    return Lesion(
        body=body,
        radius_mm=radius,
        # The core keeps a radius of about 8 mm, less the roughness.
        rim_mm=rng.uniform(4.5, min(7.5, radius - 8.0)),
        edema_mm=rng.uniform(6.0, 15.0),
        body_noise=noise(5.5),
        core_noise=noise(4.5),
        edema_noise=noise(7.5),
    )
