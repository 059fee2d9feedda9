"""Write the sample case, four MR series as DICOM: `python -m demo.sample OUT`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from demo.anatomy import draw_anatomy
from demo.phantom_dicom import MAIN, PROTOCOLS, acquire, truth_on_main_grid, uid_for, write_series
from demo.seeds import SAMPLE_SEED


@dataclass(frozen=True, kw_only=True)
class SampleSeries:
    """One series of the sample, as written."""

    sequence: str
    description: str
    series_uid: str
    folder: Path
    files: int


def write_sample(
    out: Path, *, seed: int = SAMPLE_SEED, lesions: int | None = 1
) -> tuple[SampleSeries, ...]:
    """Write the four series, in the order T1c (main), T1, T2, FLAIR.

    Parameters
    ----------
    out : Path
        Gets one folder a series, and nothing else.
    lesions : int, optional
        0 writes a healthy head; None draws the number from the seed.
    """
    anatomy = draw_anatomy(seed, lesions=lesions)
    written = []
    for number, protocol in enumerate(PROTOCOLS, start=1):
        folder = out / f"{number}_{protocol.sequence}"
        files = write_series(acquire(anatomy, protocol), folder, seed)
        written.append(
            SampleSeries(
                sequence=protocol.sequence,
                description=protocol.description,
                series_uid=uid_for(seed, protocol.sequence, "series"),
                folder=folder,
                files=len(files),
            )
        )
    return tuple(written)


def write_truth(path: Path, *, seed: int = SAMPLE_SEED, lesions: int | None = 1) -> None:
    """Write the known label map on the main series' grid as NIfTI (RAS affine)."""
    import nibabel as nib

    labels = truth_on_main_grid(draw_anatomy(seed, lesions=lesions))
    image = nib.Nifti1Image(labels, MAIN.grid.affine_ras)
    image.header.set_xyzt_units("mm")
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the sample and say what lies where."""
    arguments = _parser().parse_args(argv)
    lesions = None if arguments.lesions < 0 else arguments.lesions
    series = write_sample(arguments.out, seed=arguments.seed, lesions=lesions)
    if arguments.truth is not None:
        write_truth(arguments.truth, seed=arguments.seed, lesions=lesions)
    if arguments.json:
        print(json.dumps({"seed": arguments.seed, "series": [_as_json(s) for s in series]}))
    else:
        for one in series:
            print(f"{one.sequence:6}{one.files:4} files  {one.folder}")
    return 0


def _as_json(series: SampleSeries) -> dict[str, object]:
    return {
        "sequence": series.sequence,
        "description": series.description,
        "series_uid": series.series_uid,
        "folder": str(series.folder),
        "files": series.files,
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m demo.sample", description=__doc__)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write the series into")
    parser.add_argument("--seed", type=int, default=SAMPLE_SEED)
    parser.add_argument(
        "--lesions", type=int, default=1, help="number of tumours; 0 for none, -1 to draw it"
    )
    parser.add_argument("--truth", type=Path, help="also write the known label map, .nii.gz")
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
