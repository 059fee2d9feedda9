"""Scans of a random head: four MR sequences and the truth, on any grid.

Tissues are level sets in mm, painted over each other from the outside in with a border about one
voxel wide, so that neighbouring tissues mix as they do in a real voxel.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from demo.anatomy import SEQUENCES, Anatomy, Ellipsoid, Lesion
from demo.fields import FloatArray, Grid, Point, SmoothField

LabelArray = npt.NDArray[np.uint8]
Box = tuple[slice, slice, slice]

NECROSIS, EDEMA, ENHANCING = 1, 2, 4  # as in BraTS
LABEL_NAMES = {NECROSIS: "necrosis", EDEMA: "edema", ENHANCING: "enhancing"}
REGIONS = {
    "TC": (NECROSIS, ENHANCING),
    "WT": (NECROSIS, EDEMA, ENHANCING),
    "ET": (ENHANCING,),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Layer:
    """Share of a tissue in each voxel of a box, painted over what lies beneath."""

    tissue: str
    box: Box
    share: FloatArray


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """A head laid onto a grid: what both the truth and the images are made from."""

    anatomy: Anatomy
    grid: Grid
    layers: tuple[Layer, ...]
    labels: LabelArray
    texture: FloatArray


@dataclass(frozen=True, kw_only=True)
class ScanQuality:
    """What the scanner adds. Noise is a share of white matter's signal."""

    noise: float
    bias: float
    gain: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> ScanQuality:
        """Draw the quality of one acquisition."""
        return cls(
            noise=rng.uniform(0.015, 0.04), bias=rng.uniform(0.05, 0.25), gain=rng.uniform(0.5, 2.0)
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Ground:
    """What every tissue of a head on a grid is measured from: coordinates, depths in mm, fields."""

    grid: Grid
    x: FloatArray
    hull: FloatArray
    ventricles: FloatArray
    shape_noise: FloatArray
    fold_noise: FloatArray


def lay_out(anatomy: Anatomy, grid: Grid) -> Scene:
    """Lay a head onto a grid."""
    x = grid.coordinates()
    shape_noise = anatomy.shape_noise.on(grid)
    ground = _Ground(
        grid=grid,
        x=x,
        hull=anatomy.hull.depth_mm(x) + 2.0 * shape_noise,
        ventricles=_ventricle_depth(anatomy, x),
        shape_noise=shape_noise,
        fold_noise=anatomy.fold_noise.on(grid),
    )
    layers = list(_normal_layers(anatomy, ground))
    labels = np.zeros(grid.shape, np.uint8)
    for lesion in anatomy.lesions:
        layers.extend(_lesion_layers(lesion, ground, labels))
    texture = anatomy.texture_noise.on(grid)
    return Scene(anatomy=anatomy, grid=grid, layers=tuple(layers), labels=labels, texture=texture)


def render(scene: Scene, sequence: str, quality: ScanQuality, seed: Sequence[int]) -> FloatArray:
    """Scan a head.

    Returns
    -------
    (I, J, K) float32
        Magnitude image, never negative, with Rician noise, a bias field and a gain.
    """
    rng = np.random.default_rng(seed)
    image = _paint(scene, SEQUENCES.index(sequence))
    image *= 1 + np.float32(0.03) * scene.texture
    image *= _bias_field(scene.grid, rng, quality.bias)
    white = scene.anatomy.signal["white"][SEQUENCES.index(sequence)]
    sigma = np.float32(quality.noise * white)
    real = image + sigma * rng.standard_normal(image.shape, dtype=np.float32)
    imaginary = sigma * rng.standard_normal(image.shape, dtype=np.float32)
    scanned: FloatArray = np.hypot(real, imaginary) * np.float32(quality.gain)
    return scanned


def region_mask(labels: npt.NDArray[np.generic], region: str) -> npt.NDArray[np.bool_]:
    """Mask of a BraTS region: TC (tumour core), WT (whole tumour) or ET (enhancing tumour)."""
    return np.isin(labels, REGIONS[region])


def _ventricle_depth(anatomy: Anatomy, x: FloatArray) -> FloatArray:
    """Signed distance into the ventricles, mm; -40 where none is near."""
    depth = np.full(x.shape[1:], -40, np.float32)
    for ventricle in anatomy.ventricles:
        box = _box_around(ventricle.centre_mm, max(ventricle.radii_mm) + 10, x)
        if box is not None:
            np.maximum(depth[box], ventricle.depth_mm(x[:, *box]), out=depth[box])
    return depth


def _share(depth_mm: FloatArray) -> FloatArray:
    """Share of a voxel inside a border: 0 half a millimetre outside, 1 half one inside."""
    share: FloatArray = np.clip(depth_mm + np.float32(0.5), 0, 1)
    return share


def _normal_layers(anatomy: Anatomy, ground: _Ground) -> Iterator[Layer]:
    x, hull, ventricles = ground.x, ground.hull, ground.ventricles
    i, j, k = ground.grid.shape
    everywhere: Box = (slice(0, i), slice(0, j), slice(0, k))

    def layer(tissue: str, depth: FloatArray) -> Layer:
        return Layer(tissue=tissue, box=everywhere, share=_share(depth))

    inner = anatomy.csf_mm + anatomy.skull_mm
    scalp = hull + (inner + anatomy.scalp_mm)
    face = anatomy.face.depth_mm(x) + 2.0 * ground.shape_noise
    yield layer("scalp", np.maximum(scalp, face))
    yield layer("soft", face - 4)
    yield from _small_layers("scalp", anatomy.eyes, x, margin_mm=3)
    yield from _small_layers("csf", anatomy.eyes, x)
    yield layer("skull", hull + inner)
    yield layer("csf", hull + anatomy.csf_mm)
    pial = _pial_depth(anatomy, ground)
    yield layer("grey", pial - anatomy.sulcus_mm)
    yield layer("white", pial - (anatomy.sulcus_mm + anatomy.cortex_mm))
    yield from _small_layers("grey", anatomy.nuclei, x)
    caps = ventricles + 1.5 + ground.fold_noise
    yield layer("caps", np.minimum(caps, hull - 8))
    yield layer("csf", ventricles)
    yield from _small_layers("choroid", anatomy.choroid, x)
    yield layer("vessel", _vessel_depth(anatomy, ground))
    yield from _small_layers("capsule", (anatomy.capsule,), x)


def _small_layers(
    tissue: str, parts: Sequence[Ellipsoid], x: FloatArray, *, margin_mm: float = 0.0
) -> Iterator[Layer]:
    for part in parts:
        box = _box_around(part.centre_mm, max(part.radii_mm) + margin_mm + 1, x)
        if box is not None:
            share = _share(part.depth_mm(x[:, *box]) + np.float32(margin_mm))
            yield Layer(tissue=tissue, box=box, share=share)


def _pial_depth(anatomy: Anatomy, ground: _Ground) -> FloatArray:
    """Distance to the brain's folded surface, mm.

    The zero surface of a smooth field is a winding sheet: a sulcus. Its distance is the field
    over its slope (1.13 / sigma on average); sulci end about 14 mm deep.
    """
    slope = np.float32(anatomy.fold_noise.sigma_mm / 1.13)
    sulci = np.abs(ground.fold_noise) * slope + np.maximum(ground.hull - 14, 0)
    midline = np.abs(ground.x[0] + 1.5 * ground.shape_noise) + np.maximum(8 - ground.x[2], 0)
    pial: FloatArray = np.minimum(np.minimum(ground.hull, sulci), midline)
    return pial


def _vessel_depth(anatomy: Anatomy, ground: _Ground) -> FloatArray:
    """Arteries, where two random sheets cross, and the sagittal sinus under the vault."""
    one, two = (field.on(ground.grid) for field in anatomy.vessel_noise)
    # A field of sigma 9 mm rises by about 1 over 8 mm: this is a tube of 1.2 mm radius.
    tubes = 1.2 - 8 * np.hypot(one, two)
    sinus = 4.0 - np.hypot(ground.x[0], ground.hull - 0.5) - np.maximum(25 - ground.x[2], 0)
    vessels: FloatArray = np.maximum(np.minimum(tubes, ground.hull), sinus)
    return vessels


def _lesion_layers(lesion: Lesion, ground: _Ground, labels: LabelArray) -> Iterator[Layer]:
    """Yield a lesion's layers and enter it into `labels`."""
    box = _box_around(lesion.body.centre_mm, lesion.reach_mm, ground.x)
    if box is None:
        return

    def rough(field: SmoothField, amplitude_mm: float) -> FloatArray:
        # Clipped: a rare peak must not close the rim or tear an island off.
        return np.float32(amplitude_mm) * np.clip(field.on(ground.grid, box), -2, 2)

    within = ground.hull[box] - 1
    tumour = lesion.body.depth_mm(ground.x[:, *box])
    edema = tumour + lesion.edema_mm + rough(lesion.edema_noise, 2.5)
    edema = np.minimum(np.minimum(edema, within), -ground.ventricles[box])
    tumour = tumour + rough(lesion.body_noise, 1.4)
    core = tumour - lesion.rim_mm + rough(lesion.core_noise, 0.6)
    tumour = np.minimum(tumour, within)
    view = labels[box]
    view[(edema > 0) & (view == 0)] = EDEMA
    view[tumour > 0] = ENHANCING
    view[(core > 0) & (tumour > 0)] = NECROSIS
    for tissue, depth in (("edema", edema), ("rim", tumour), ("necrosis", core)):
        yield Layer(tissue=tissue, box=box, share=_share(depth))


def _box_around(centre_mm: Point, reach_mm: float, x: FloatArray) -> Box | None:
    """Find the box of the grid that holds a ball; None when they do not meet."""
    # The grid's affine, read off its coordinates: the box is where the ball's shadow falls.
    origin = x[:, 0, 0, 0].astype(float)
    steps = [x[:, *np.eye(3, dtype=int)[n]] - origin for n in range(3)]
    to_index = np.linalg.inv(np.stack(steps, axis=1))
    middle = to_index @ (np.asarray(centre_mm) - origin)
    reach = np.linalg.norm(to_index, axis=1) * reach_mm
    low = np.maximum(np.floor(middle - reach), 0).astype(int)
    high = np.minimum(np.ceil(middle + reach) + 1, x.shape[1:]).astype(int)
    if (high <= low).any():
        return None
    return tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))  # type: ignore[return-value]


def _paint(scene: Scene, channel: int) -> FloatArray:
    image = np.zeros(scene.grid.shape, np.float32)
    for layer in scene.layers:
        signal = np.float32(scene.anatomy.signal[layer.tissue][channel])
        part = image[layer.box]
        part += (signal - part) * layer.share
    return image


def _bias_field(grid: Grid, rng: np.random.Generator, strength: float) -> FloatArray:
    """Build a coil's sensitivity: slow along a random direction and brighter near the coil."""
    i, j, k = (np.linspace(-1, 1, n, dtype=np.float32) for n in grid.shape)
    a = rng.uniform(-1, 1, 6).astype(np.float32)
    field = (
        (a[0] * i + a[3] * i * i)[:, None, None]
        + (a[1] * j + a[4] * j * j)[None, :, None]
        + (a[2] * k + a[5] * k * k)[None, None, :]
    )
    biased: FloatArray = np.exp(np.float32(strength / 2) * field)
    return biased
