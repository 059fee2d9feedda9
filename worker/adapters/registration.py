"""Moves a series onto the main one: rigidly, by mutual information, or not at all.

Only where a model's settings ask for it: registering what is aligned already adds error. The same
images always give the same transform: sampling is seeded and one thread sums.

References
----------
Mattes et al., PET-CT image registration in the chest using free-form deformations, IEEE TMI 2003
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from worker.core.errors import SeriesInvalid
from worker.core.geometry import Geometry, Volume

if TYPE_CHECKING:
    import SimpleITK as sitk  # noqa: N813 - as everybody writes it

# Beyond these the optimum that is found is often a wrong one (9 to 23 mm off at 25 degrees, 50 mm).
LARGEST_ROTATION_DEG, LARGEST_SHIFT_MM = 20.0, 30.0

# Least share of the main series' voxels that the moved series must cover.
LEAST_OVERLAP = 0.25

# Least normalised mutual information, of 1 (none) to 2, of what overlaps after registration: below
# it the two have little to do with each other (a breast on a head).
LEAST_FIT = 1.1

# How much of that information a shift by 10 mm must cost: 1 where it costs nothing. What matches
# has a sharp optimum, whatever its contrasts; two heads that don't match only share an outline.
# benchmarks/registration.py prints both figures for pairs that match and pairs that don't.
LEAST_SHARPNESS = 1.6
_PROBE_MM = 10.0

# Both series are brought to this spacing first, so that shrink factors mean the same in all
# directions; then halved and halved again: 8, 4 and 2 mm.
_SPACING_MM = 2.0
_SHRINK = (4, 2, 1)
_SMOOTHING_MM = (4.0, 2.0, 0.0)
_SAMPLED = (0.5, 0.2, 0.05)
_BINS = 32
_SEED = 20_240_503
_ITERATIONS = 150


@dataclass(frozen=True, kw_only=True)
class Registration:
    """A rigid transform and how good it is.

    Parameters
    ----------
    matrix_lps : 4 x 4 numbers
        Points of the main series -> points of the moved series as it was stored; LPS, mm.
    angles_deg : three numbers
        Around x, y and z.
    rotation_deg, shift_mm : float
        The whole rotation; how far the middle of the main series moves.
    overlap : float
        Share of the main series' voxels that the moved series covers.
    fit_before, fit_after : float
        Normalised mutual information, 1 to 2; 1 where nothing overlaps.
    sharpness : float
        (fit - 1) here, divided by its mean 10 mm away in the six directions.
    cpu_s : float
        What it cost.
    """

    matrix_lps: tuple[tuple[float, ...], ...]
    angles_deg: tuple[float, float, float]
    rotation_deg: float
    shift_mm: float
    overlap: float
    fit_before: float
    fit_after: float
    sharpness: float
    cpu_s: float

    def to_json(self) -> dict[str, Any]:
        """Give it as the report shows it."""
        return {
            "method": "rigid, Mattes mutual information, 8/4/2 mm",
            "matrix_lps": [list(row) for row in self.matrix_lps],
            "angles_deg": [round(angle, 3) for angle in self.angles_deg],
            "rotation_deg": round(self.rotation_deg, 3),
            "shift_mm": round(self.shift_mm, 3),
            "overlap": round(self.overlap, 3),
            "fit_before": round(self.fit_before, 4),
            "fit_after": round(self.fit_after, 4),
            "sharpness": round(self.sharpness, 3),
            "cpu_s": round(self.cpu_s, 2),
        }

    def moved(self, geometry: Geometry, frame_of_reference_uid: str) -> Geometry:
        """Give the grid of the moved series in the main series' frame of reference."""
        affine = np.linalg.inv(np.array(self.matrix_lps)) @ geometry.affine_lps
        return Geometry(
            shape=geometry.shape,
            affine_lps=affine,
            frame_of_reference_uid=frame_of_reference_uid,
        )


def register(moving: Volume, fixed: Volume, *, name: str) -> Registration:
    """Find the rigid transform that lays `moving` onto `fixed`, and check it.

    Parameters
    ----------
    moving : Volume
    fixed : Volume
        The main series.
    name : str
        How messages call the moving series.

    Raises
    ------
    SeriesInvalid
        `registration_too_far`, `no_overlap` or `registration_poor`.
    """
    found = find_transform(moving, fixed)
    check(found, name)
    return found


def find_transform(moving: Volume, fixed: Volume) -> Registration:
    """Find the best transform, good or not (`check`)."""
    with _one_thread():
        return _found(moving, fixed)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let one thread sum: the order of summands, so the last digits, would be another each time.

    The metric takes its number of threads from ITK's global setting alone.
    """
    import SimpleITK as sitk  # noqa: N813

    threads = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)


def _found(moving: Volume, fixed: Volume) -> Registration:
    import SimpleITK as sitk  # noqa: N813

    started = time.process_time()
    fixed_image, moving_image = _isotropic(fixed), _isotropic(moving)
    identity = sitk.Euler3DTransform()
    before = _fit(fixed_image, moving_image, identity)
    transform = _optimised(fixed_image, moving_image, _best_start(fixed_image, moving_image))
    matrix = _matrix(transform)
    return Registration(
        matrix_lps=tuple(tuple(row) for row in matrix.tolist()),
        angles_deg=_angles_deg(transform),
        rotation_deg=_rotation_deg(matrix),
        shift_mm=_shift_mm(matrix, fixed.geometry),
        overlap=_overlap(fixed.geometry, moving.geometry, matrix),
        fit_before=before,
        fit_after=(fit := _fit(fixed_image, moving_image, transform)),
        sharpness=_sharpness(fixed_image, moving_image, transform, fit),
        cpu_s=time.process_time() - started,
    )


def check(found: Registration, name: str) -> None:
    """Refuse a transform that can't be trusted, with the codes of `register`."""
    if found.rotation_deg > LARGEST_ROTATION_DEG or found.shift_mm > LARGEST_SHIFT_MM:
        raise SeriesInvalid(
            f"{name} would have to be moved by {found.shift_mm:.0f} mm and turned by "
            f"{found.rotation_deg:.0f} degrees to fit the main series, more than the "
            f"{LARGEST_SHIFT_MM:.0f} mm and {LARGEST_ROTATION_DEG:.0f} degrees that can be "
            "trusted; choose series of one examination.",
            code="registration_too_far",
        )
    if found.overlap < LEAST_OVERLAP:
        raise SeriesInvalid(
            f"{name} covers {found.overlap:.0%} of the main series, too little to be laid over "
            "it; choose series of the same region.",
            code="no_overlap",
        )
    if found.fit_after < LEAST_FIT or found.sharpness < LEAST_SHARPNESS:
        raise SeriesInvalid(
            f"{name} couldn't be laid over the main series: after registration their fit is "
            f"{found.fit_after:.2f} (at least {LEAST_FIT} is needed) and its sharpness "
            f"{found.sharpness:.2f} (at least {LEAST_SHARPNESS}); choose series of the same "
            "region and patient.",
            code="registration_poor",
        )


def _isotropic(volume: Volume) -> sitk.Image:
    """Smooth and resample to 2 mm in each direction."""
    import SimpleITK as sitk  # noqa: N813

    geometry = volume.geometry
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.array.transpose(2, 1, 0)))
    image.SetOrigin(geometry.origin_mm.tolist())
    image.SetSpacing(geometry.spacing_mm)
    image.SetDirection(geometry.directions.ravel().tolist())
    sigmas = [
        0.5 * _SPACING_MM if spacing < _SPACING_MM else 1e-3 for spacing in geometry.spacing_mm
    ]
    image = sitk.SmoothingRecursiveGaussian(image, sigmas)
    size = [
        max(8, round(count * spacing / _SPACING_MM))
        for count, spacing in zip(geometry.shape, geometry.spacing_mm, strict=True)
    ]
    spacing = [
        count * step / new
        for count, step, new in zip(geometry.shape, geometry.spacing_mm, size, strict=True)
    ]
    # Voxels' faces stay where they are, so centres move by half the difference in spacing.
    shift = [(new - old) / 2 for new, old in zip(spacing, geometry.spacing_mm, strict=True)]
    origin = geometry.origin_mm + geometry.directions @ np.array(shift)
    return sitk.Resample(
        image,
        size,
        sitk.Transform(),
        sitk.sitkLinear,
        origin.tolist(),
        spacing,
        geometry.directions.ravel().tolist(),
        0.0,
        sitk.sitkFloat32,
        True,
    )


def _best_start(fixed: sitk.Image, moving: sitk.Image) -> sitk.Euler3DTransform:
    """Take the better of three: as stored, middle on middle, centre of mass on centre of mass."""
    import SimpleITK as sitk  # noqa: N813

    middle = fixed.TransformContinuousIndexToPhysicalPoint(
        [(size - 1) / 2 for size in fixed.GetSize()]
    )
    as_stored = sitk.Euler3DTransform()
    as_stored.SetCenter(middle)
    starts = [as_stored]
    for kind in (
        sitk.CenteredTransformInitializerFilter.GEOMETRY,
        sitk.CenteredTransformInitializerFilter.MOMENTS,
    ):
        start = sitk.CenteredTransformInitializer(fixed, moving, sitk.Euler3DTransform(), kind)
        starts.append(sitk.Euler3DTransform(start))
    return max(starts, key=lambda start: _fit(fixed, moving, start))


def _optimised(
    fixed: sitk.Image, moving: sitk.Image, start: sitk.Euler3DTransform
) -> sitk.Euler3DTransform:
    import SimpleITK as sitk  # noqa: N813

    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(numberOfHistogramBins=_BINS)
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentagePerLevel(_SAMPLED, _SEED)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=1.0,
        minStep=1e-3,
        numberOfIterations=_ITERATIONS,
        relaxationFactor=0.6,
        gradientMagnitudeTolerance=1e-6,
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel(_SHRINK)
    method.SetSmoothingSigmasPerLevel(_SMOOTHING_MM)
    method.SetSmoothingSigmasAreSpecifiedInPhysicalUnits(True)
    method.SetInitialTransform(start, inPlace=True)
    method.Execute(fixed, moving)
    return start


def _fit(fixed: sitk.Image, moving: sitk.Image, transform: sitk.Transform) -> float:
    """Give the normalised mutual information, (H(a) + H(b)) / H(a, b), of what overlaps."""
    import SimpleITK as sitk  # noqa: N813

    coarse = fixed[::2, ::2, ::2]
    outside = -1e30
    moved = sitk.GetArrayFromImage(
        sitk.Resample(moving, coarse, transform, sitk.sitkLinear, outside, sitk.sitkFloat32)
    )
    inside = moved > outside / 2
    if np.count_nonzero(inside) < 0.01 * inside.size:
        return 1.0
    one = _binned(sitk.GetArrayViewFromImage(coarse)[inside])
    other = _binned(moved[inside])
    joint = np.bincount(one * _BINS + other, minlength=_BINS * _BINS).astype(np.float64)
    joint = (joint / joint.sum()).reshape(_BINS, _BINS)
    both = _entropy(joint.ravel())
    if both <= 0:
        return 1.0
    return float((_entropy(joint.sum(axis=0)) + _entropy(joint.sum(axis=1))) / both)


def _sharpness(
    fixed: sitk.Image, moving: sitk.Image, transform: sitk.Euler3DTransform, fit: float
) -> float:
    import SimpleITK as sitk  # noqa: N813

    away = []
    for shift in (*(_PROBE_MM * np.eye(3)), *(-_PROBE_MM * np.eye(3))):
        shifted = sitk.Euler3DTransform(transform)
        shifted.SetTranslation((np.array(transform.GetTranslation()) + shift).tolist())
        away.append(_fit(fixed, moving, shifted) - 1.0)
    return float((fit - 1.0) / max(float(np.mean(away)), 1e-6))


def _binned(values: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    low, high = np.percentile(values, (0.5, 99.5))
    scaled = (values - low) / max(float(high - low), 1e-6)
    return np.asarray(np.clip(scaled * _BINS, 0, _BINS - 1).astype(np.int64))


def _entropy(shares: npt.NDArray[np.float64]) -> float:
    present = shares[shares > 0]
    return float(-(present * np.log(present)).sum())


def _matrix(transform: sitk.Euler3DTransform) -> npt.NDArray[np.float64]:
    """Give the transform as one matrix: points of the fixed image -> points of the moving one."""
    rotation = np.array(transform.GetMatrix()).reshape(3, 3)
    centre = np.array(transform.GetCenter())
    matrix = np.eye(4)
    matrix[:3, :3] = rotation
    matrix[:3, 3] = np.array(transform.GetTranslation()) + centre - rotation @ centre
    return matrix


def _angles_deg(transform: sitk.Euler3DTransform) -> tuple[float, float, float]:
    x, y, z = np.degrees(
        [transform.GetAngleX(), transform.GetAngleY(), transform.GetAngleZ()]
    ).tolist()
    return (x, y, z)


def _rotation_deg(matrix: npt.NDArray[np.float64]) -> float:
    cosine = (np.trace(matrix[:3, :3]) - 1) / 2
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def _shift_mm(matrix: npt.NDArray[np.float64], fixed: Geometry) -> float:
    middle = fixed.to_lps((np.array(fixed.shape) - 1) / 2)
    return float(np.linalg.norm(matrix[:3, :3] @ middle + matrix[:3, 3] - middle))


def _overlap(fixed: Geometry, moving: Geometry, matrix: npt.NDArray[np.float64]) -> float:
    """Give the share of the fixed grid's voxels that fall into the moving grid, on a sample."""
    axes = [np.linspace(0, size - 1, min(size, 24)) for size in fixed.shape]
    points = fixed.to_lps(np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3))
    indices = moving.to_index(points @ matrix[:3, :3].T + matrix[:3, 3])
    inside = (indices >= -0.5) & (indices <= np.array(moving.shape) - 0.5)
    return float(inside.all(axis=1).mean())
