"""Volumes to check a model on: DICOM series, NIfTI files, the bundle's own sample, or made up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from worker.catalogue import ModelEntry
from worker.core.errors import SeriesInvalid

FloatArray = npt.NDArray[np.floating[Any]]
Shape = tuple[int, int, int]

SAMPLE_FOLDER = "sample"
_NIFTI = (".nii", ".nii.gz")


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """A volume that a model can be run on.

    Parameters
    ----------
    channels : (C, I, J, K) float32
        In the model's channel order.
    affine_ras : (4, 4)
        Voxel index -> RAS, mm.
    source : str
        Where it comes from, for people.
    is_made_up : bool
        Noise, in which a model finds nothing that means anything.
    """

    channels: FloatArray
    affine_ras: FloatArray
    source: str
    is_made_up: bool = False

    @property
    def shape(self) -> Shape:
        """Columns, rows, slices."""
        i, j, k = self.channels.shape[1:]
        return (i, j, k)


def find_sample(entry: ModelEntry, volumes: Sequence[str], default: Shape) -> Sample:
    """Give the volumes that were named, the bundle's own sample, or a made-up one.

    Parameters
    ----------
    volumes : sequence of str
        NIfTI files, or folders of DICOM series, in the order of the channels.
    default : (3,) tuple of int
        Size of a made-up one.

    Raises
    ------
    SeriesInvalid
        They can't be read, or are not those that the model needs.
    """
    if volumes:
        is_nifti = all(volume.lower().endswith(_NIFTI) for volume in volumes)
        return read_nifti(volumes) if is_nifti else read_dicom(entry, volumes)
    folder = entry.path / SAMPLE_FOLDER
    files = [folder / f"{channel}.nii.gz" for channel in entry.channels]
    if all(file.is_file() for file in files):
        return read_nifti([str(file) for file in files])
    return made_up(entry, default)


def read_dicom(entry: ModelEntry, folders: Sequence[str]) -> Sample:
    """Read series as a case's are read; the first is the main one."""
    from worker.case_inputs import load_inputs
    from worker.core.job import Case
    from worker.local_series import read_arguments
    from worker.timings import Timings

    series = read_arguments(folders)
    case = Case(
        request_id="sample",
        series=series,
        main_series_id=series[0].series_id,
        model=entry.name,
        output_dir=Path(),
    )
    loaded = load_inputs(case, entry, Timings(), lambda _: None)
    affine = loaded.main.geometry.affine_ras
    return Sample(channels=loaded.channels, affine_ras=affine, source=", ".join(folders))


def read_nifti(paths: Sequence[str]) -> Sample:
    """Read NIfTI files on one grid, one for each channel.

    Raises
    ------
    SeriesInvalid
        `unreadable` or `other_grid`.
    """
    import nibabel as nib
    from nibabel.filebasedimages import ImageFileError

    images = []
    for path in paths:
        try:
            image = nib.load(path)
            images.append((np.asarray(image.dataobj, dtype=np.float32), image.affine))
        except (OSError, ValueError, ImageFileError) as error:
            raise SeriesInvalid(
                f"{path} can't be read as NIfTI: give a .nii or .nii.gz file.", code="unreadable"
            ) from error
    arrays, affines = zip(*images, strict=True)
    is_one_grid = all(
        array.shape == arrays[0].shape and np.allclose(affine, affines[0], atol=1e-3)
        for array, affine in images
    )
    if arrays[0].ndim != 3 or not is_one_grid:
        raise SeriesInvalid(
            "The NIfTI files don't lie on one grid of columns, rows and slices: resample them to "
            "the first one.",
            code="other_grid",
        )
    return Sample(
        channels=np.stack(arrays), affine_ras=affines[0], source=str(Path(paths[0]).parent)
    )


def made_up(entry: ModelEntry, shape: Shape) -> Sample:
    """Make noise with some air around it, the same each time."""
    generator = np.random.default_rng(0)
    channels = generator.random((len(entry.channels), *shape), dtype=np.float32)
    channels[:, : shape[0] // 8] = 0  # some air, as every head MRI has
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    return Sample(channels=channels, affine_ras=affine, source="noise", is_made_up=True)


def resized(sample: Sample, shape: Shape) -> Sample:
    """Give a sample in other steps over the same space, for timing."""
    from scipy import ndimage

    factors = [new / old for new, old in zip(shape, sample.shape, strict=True)]
    channels = np.stack([ndimage.zoom(channel, factors, order=1) for channel in sample.channels])
    affine = np.array(sample.affine_ras, dtype=np.float64)
    affine[:3, :3] /= factors
    return Sample(
        channels=channels,
        affine_ras=affine,
        source=sample.source,
        is_made_up=sample.is_made_up,
    )
