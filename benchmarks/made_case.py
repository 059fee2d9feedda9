"""A made-up examination of any size: four series on one grid, with three nested tumour regions.

The head is the demonstration's (`demo/anatomy.py`), with noise that no compression removes, so the
bundled network finds in it what it was trained on. One head is laid out for all four series: a
large case takes seconds to make, not minutes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt

from demo.anatomy import draw_anatomy
from demo.phantom import REGIONS, ScanQuality, lay_out, region_mask, render
from demo.phantom_dicom import AXIAL, PROTOCOLS, Protocol, Scan, write_series
from worker.adapters.dicom_read import list_files, read_series
from worker.core.job import Case, SeriesFiles

FULL = (240, 240, 155, 4)  # BraTS: columns, rows, slices, series
HEAD_MM = (240.0, 240.0, 155.0)
_TILTS = ((0.0, 0.0, 0.0), (3.0, 2.0, -4.0), (-3.0, 5.0, 2.0), (6.0, -2.0, 3.0))
_FULL_SCALE = 2000.0
_QUALITY = ScanQuality(noise=0.03, bias=0.15, gain=1.0)

Size = tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True, eq=False)
class MadeCase:
    """What was written, and what is in it.

    Parameters
    ----------
    folders : tuple of Path
        One series each, in the order T1c, T1, T2, FLAIR; the first is the main series.
    regions : (N, I, J, K) uint8
        Tumour core, whole tumour, enhancing tumour on the main series' grid, 0 or 1 each.
    """

    folders: tuple[Path, ...]
    regions: npt.NDArray[np.uint8]

    def case(self, out: Path, model: str) -> Case:
        """Give it as the worker gets it."""
        series = tuple(
            SeriesFiles(series_id=folder.name, files=list_files(folder)) for folder in self.folders
        )
        return Case(
            request_id="benchmark",
            series=series,
            main_series_id=series[0].series_id,
            model=model,
            output_dir=out,
        )


def size_of(text: str) -> Size:
    """Read a size such as 240x240x155x4: columns, rows, slices, series."""
    columns, rows, slices, series = (int(part) for part in text.split("x"))
    return columns, rows, slices, series


def make_case(
    folder: Path, size: Size = FULL, *, seed: int = 5, is_tilted: bool = False
) -> MadeCase:
    """Write the series of one head into `folder`.

    Parameters
    ----------
    size : tuple of int
        Columns, rows, slices, and series (at most four).
    is_tilted : bool
        Give each further series a grid of its own, so that it must be resampled.
    """
    anatomy = draw_anatomy(seed, lesions=1)
    main = scene = lay_out(anatomy, _protocol(0, size, is_tilted=False).grid)
    folders = []
    for index in range(size[3]):
        protocol = _protocol(index, size, is_tilted=is_tilted)
        if is_tilted and index:
            scene = lay_out(anatomy, protocol.grid)
        image = render(scene, protocol.sequence, _QUALITY, (seed, index))
        scaled = image * (_FULL_SCALE / np.percentile(image[::4, ::4, ::4], 99.9))
        pixels = np.clip(np.rint(scaled), 0, 4095).astype(np.uint16)
        folders.append(folder / f"{index}-{protocol.sequence}")
        write_series(Scan(protocol=protocol, pixels=pixels), folders[-1], seed)
    regions = np.stack([region_mask(main.labels, name) for name in REGIONS]).astype(np.uint8)
    return MadeCase(folders=tuple(folders), regions=regions)


def write_volumes(made: MadeCase, folder: Path, names: Sequence[str]) -> tuple[Path, ...]:
    """Write the same series as NIfTI files, for programs that read no DICOM."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, series in zip(names, made.folders, strict=True):
        volume = read_series(list_files(series))
        paths.append(folder / name)
        image = nibabel.Nifti1Image(volume.array, volume.geometry.affine_ras)
        nibabel.save(image, paths[-1])
    return tuple(paths)


def _protocol(index: int, size: Size, *, is_tilted: bool) -> Protocol:
    x_mm, y_mm, z_mm = (whole / count for whole, count in zip(HEAD_MM, size[:3], strict=True))
    return replace(
        PROTOCOLS[index],
        shape=size[:3],
        spacing_mm=(x_mm, y_mm, z_mm),
        thickness_mm=z_mm,
        plane=AXIAL,
        tilt_degrees=_TILTS[index] if is_tilted else (0.0, 0.0, 0.0),
        centre_mm=(0.0, 0.0, 10.0),
    )
