"""Series in odd orientations with a mark near one corner, and a worker that finds the mark.

It finds it by the phantom's own numbers, not by the pixels: what the page shows can be compared.
"""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pydicom

from tests.support.dicom_phantoms import AXIAL, FLIPPED, SAGITTAL, Grid, Phantom, rotated, uid
from tests.support.dicom_phantoms import write_series as write_phantom
from tests.support.http_worker import HttpWorker

TISSUE, BRIGHT = 300, 600
# Voxels of the mark: near one corner of the grid, so that every flip and turn moves it elsewhere.
MARK = (slice(3, 8), slice(2, 6), slice(2, 6))
GRIDS = {
    "flipped": FLIPPED,
    "transposed": replace(AXIAL, row=(0, 1, 0), column=(1, 0, 0)),
    "oblique_sagittal": rotated(SAGITTAL, x=-9, y=6, z=14),
}


def write_marked(folder: Path) -> None:
    """Write each as a study of its own, into a folder of its name."""
    for name, grid in GRIDS.items():
        array = np.where(mark_of(grid), BRIGHT, TISSUE).astype(np.uint16)
        own = replace(grid, frame_of_reference_uid=uid(name))
        phantom = Phantom(grid=own, series=name, study=name, order="shuffled")
        write_phantom(folder / name, phantom, array=array)


def mark_of(grid: Grid) -> npt.NDArray[np.uint8]:
    labels = np.zeros(grid.shape, np.uint8)
    labels[MARK] = 1
    return labels


class Marks(HttpWorker):
    """Finds the mark: by the phantom's numbers, not by the pixels."""

    grid: Grid

    def draw(self, sources: list[pydicom.Dataset]) -> np.ndarray:
        labels = mark_of(self.grid)
        return np.stack([labels[:, :, self._slice_of(one)].T for one in sources])

    def _slice_of(self, source: pydicom.Dataset) -> int:
        away = np.asarray(source.ImagePositionPatient, float) - self.grid.world(0, 0, 0)
        return round(float(away @ self.grid.normal) / self.grid.spacing_mm[2])

    def draw_volume(self, sources: list[pydicom.Dataset]) -> bytes:
        origin = self.grid.world(0, 0, 0)
        axes = [self.grid.world(*step) - origin for step in np.eye(3)]
        affine = np.eye(4)
        affine[:3] = np.column_stack([*axes, origin])
        affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine  # from DICOM's LPS to NIfTI's RAS
        return gzip.compress(nib.Nifti1Image(mark_of(self.grid), affine).to_bytes())
