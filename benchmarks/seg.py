"""Time, CPU and size of writing a mask: 1 and 18 segments, BINARY and LABELMAP, deflated or not.

    python -m benchmarks.seg [--size 256] [--slices 134] [--further 0] [--json]

The series and the mask are made up: boxes of labels through most of a volume. `deflated` is the
same object written anew in the Deflated transfer syntax; the worker itself never does so, since
fewer archives take it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.uid import DeflatedExplicitVRLittleEndian

from tests.support.dicom_phantoms import AXIAL, Grid, Phantom, write_series
from tests.support.imaging_models import LESION
from worker.adapters.dicom_read import OpenedSeries, open_series
from worker.adapters.dicom_seg import MaskRequest, write_dicom_seg
from worker.adapters.dicom_seg_check import check_dicom_seg
from worker.core.job import ModelIdentity
from worker.core.segments import SEG_TYPES, Labels, SegmentSpec

MODEL = ModelIdentity(name="benchmark", version="1", sha256="0" * 64)


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What one kind of SEG cost and how large it became."""

    seg_type: str
    segments: int
    wall_s: float
    cpu_s: float
    check_cpu_s: float
    megabytes: float
    deflated_megabytes: float
    deflate_cpu_s: float


def measure(
    main: OpenedSeries, others: tuple[OpenedSeries, ...], seg_type: str, count: int, folder: Path
) -> Figures:
    labels, specs = _labels(main.geometry.shape, count)
    request = MaskRequest(
        request_id="benchmark",
        labels=labels,
        specs=specs,
        main=main,
        others=others,
        model=MODEL,
        seg_type=seg_type,
    )
    path, deflated = folder / "mask.dcm", folder / "deflated.dcm"
    wall_s, cpu_s = _timed(lambda: write_dicom_seg(request, path))
    _, check_cpu_s = _timed(lambda: check_dicom_seg(path, labels, specs, main.geometry))
    _, deflate_cpu_s = _timed(lambda: _deflate(path, deflated))
    return Figures(
        seg_type=seg_type,
        segments=count,
        wall_s=wall_s,
        cpu_s=cpu_s,
        check_cpu_s=check_cpu_s,
        megabytes=round(path.stat().st_size / 1e6, 3),
        deflated_megabytes=round(deflated.stat().st_size / 1e6, 3),
        deflate_cpu_s=deflate_cpu_s,
    )


def _labels(shape: tuple[int, int, int], count: int) -> tuple[Labels, tuple[SegmentSpec, ...]]:
    """Cut the middle of the volume into slabs, one a label."""
    array = np.zeros(shape, np.uint8)
    i, j, k = shape
    edges = np.linspace(i // 8, i - i // 8, count + 1).astype(int)
    for label, (first, last) in enumerate(pairwise(edges), start=1):
        array[first:last, j // 8 : j - j // 8, k // 10 : k - k // 10] = label
    specs = tuple(
        SegmentSpec(
            label_value=label, label=f"Part {label}", category=LESION.category, type=LESION.type
        )
        for label in range(1, count + 1)
    )
    return Labels(array=array, values=tuple(range(1, count + 1))), specs


def _timed(work: Callable[[], object]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return round(time.perf_counter() - wall, 3), round(time.process_time() - cpu, 3)


def _deflate(path: Path, target: Path) -> None:
    dataset = dcmread(path)
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        dataset.decompress()
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(target, enforce_file_format=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.seg", description=__doc__)
    parser.add_argument("--size", type=int, default=256, help="rows and columns")
    parser.add_argument("--slices", type=int, default=134)
    parser.add_argument("--further", type=int, default=0, help="series beside the main one")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = Path(name)
        grid = _grid(options.size, options.slices)
        series = [
            open_series(write_series(folder / str(n), Phantom(grid=grid, series=str(n))))
            for n in range(options.further + 1)
        ]
        measure(series[0], (), "binary", 1, folder)  # imports and tables, once
        found = [
            measure(series[0], tuple(series[1:]), seg_type, count, folder)
            for count in (1, 18)
            for seg_type in SEG_TYPES
        ]
    _print(found, as_json=options.json)


def _grid(size: int, slices: int) -> Grid:
    return Grid(shape=(size, size, slices), origin_mm=AXIAL.origin_mm)


def _print(found: list[Figures], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps([asdict(item) for item in found], indent=2))
        return
    heads = f"{'kind':9} {'segments':>8} {'wall s':>7} {'CPU s':>6} {'check':>6} {'MB':>7}"
    print(f"{heads} {'deflated':>9}")
    for item in found:
        print(
            f"{item.seg_type:9} {item.segments:8} {item.wall_s:7.2f} {item.cpu_s:6.2f} "
            f"{item.check_cpu_s:6.2f} {item.megabytes:7.2f} {item.deflated_megabytes:9.2f}"
        )


if __name__ == "__main__":
    main()
