"""Makes report.json: what was found, by what, from what, how long it took, and what to beware of.

Names series and instances by UID only; nothing else of the patient. Its fields are described in
docs/report.md and checked against docs/report.schema.json.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worker import __version__
from worker.adapters.dicom_seg import segment_color
from worker.core.geometry import Geometry
from worker.core.job import CaseResult
from worker.core.postprocess import Step
from worker.core.segments import SegmentSpec

if TYPE_CHECKING:
    from worker.case_inputs import LoadedInputs
    from worker.catalogue import ModelEntry

# Rises when a field changes its meaning or goes away; new fields may come at any time.
REPORT_FORMAT = 1

_LIBRARIES = ("torch", "monai", "highdicom", "pydicom", "numpy", "nibabel", "scipy", "SimpleITK")

Report = dict[str, Any]


def make_report(
    *,
    request_id: str,
    order: str,
    result: CaseResult,
    specs: Sequence[SegmentSpec],
    loaded: LoadedInputs,
    model: ModelEntry,
    steps: Sequence[Step],
    device: str,
) -> Report:
    """Gather what report.json and report.html show.

    Parameters
    ----------
    order : str
        given or auto, as the request said.
    steps : sequence of Step
        What postprocessing did.
    device : str
        The engine's.
    """
    return {
        "format": REPORT_FORMAT,
        "request_id": request_id,
        "intended_use": model.intended_use,
        "result": result.to_json(),
        "segments": [_segment(spec, number) for number, spec in enumerate(specs, start=1)],
        "geometry": _geometry(loaded.main.geometry),
        "order": _order(order, loaded),
        "inputs": [_input(loaded, index) for index in range(len(loaded.series))],
        "postprocessing": {
            "settings": model.postprocess.to_json(),
            "steps": [step.to_json() for step in steps],
        },
        "device": device,
        "software": software_versions(),
    }


def write_report(path: Path, report: Report) -> None:
    """Write report.json."""
    path.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@cache
def software_versions() -> Mapping[str, str]:
    """Give the versions of this program and of what shaped the result."""
    versions = {"mri-worker": __version__, "python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def _segment(spec: SegmentSpec, number: int) -> dict[str, Any]:
    # The NIfTI mask holds label values, the DICOM SEG segment numbers: here they meet.
    return {"number": number, **asdict(spec), "color_rgb": list(segment_color(spec, number))}


def _geometry(geometry: Geometry) -> dict[str, Any]:
    return {
        "shape": list(geometry.shape),
        "spacing_mm": list(geometry.spacing_mm),
        "affine_lps": geometry.affine_lps.tolist(),
        "affine_ras": geometry.affine_ras.tolist(),
        "voxel_volume_ml": geometry.voxel_volume_ml,
        "frame_of_reference_uid": geometry.frame_of_reference_uid,
    }


def _order(order: str, loaded: LoadedInputs) -> dict[str, Any]:
    assignment = loaded.assignment
    return {
        "asked": order,
        "given_places": [index + 1 for index in assignment.indices],
        "confidence": assignment.confidence,
        "reasons": list(assignment.reasons),
    }


def _input(loaded: LoadedInputs, index: int) -> dict[str, Any]:
    opened, use = loaded.series[index], loaded.uses[index]
    guess = loaded.assignment.guesses[index]
    registration = loaded.registrations.get(index)
    return {
        "channel": use.channel,
        "is_main": index == loaded.main_index,
        "series_id": use.series_id,
        "series_instance_uid": opened.series_instance_uid,
        "sop_instance_uids": list(
            dict.fromkeys(source.sop_instance_uid for source in opened.sources)
        ),
        "sequence": {
            "guess": guess.sequence,
            "confidence": use.confidence,
            "reasons": list(guess.reasons),
        },
        "shape": list(opened.geometry.shape),
        "spacing_mm": list(opened.geometry.spacing_mm),
        "is_resampled": not opened.geometry.is_same_grid(loaded.main.geometry),
        "registration": registration.to_json() if registration else None,
        "notes": list(opened.notes),
    }
