"""Writes report.json: what was found, by what, from what, how long it took, and what to beware of.

Names series and instances by UID only; nothing else of the patient.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from worker import __version__
from worker.adapters.dicom_read import OpenedSeries
from worker.core.geometry import Geometry
from worker.core.job import CaseResult
from worker.core.segments import SegmentSpec

# Rises when a field changes its meaning or goes away; new fields may come at any time.
REPORT_FORMAT = 1

_LIBRARIES = ("torch", "monai", "highdicom", "pydicom", "numpy", "nibabel", "SimpleITK")


def write_report(
    path: Path,
    *,
    request_id: str,
    result: CaseResult,
    specs: Sequence[SegmentSpec],
    series: Sequence[OpenedSeries],
    main: OpenedSeries,
    channels: Sequence[str],
    intended_use: str,
    device: str,
) -> None:
    """Write the report of a case as JSON.

    Parameters
    ----------
    series : sequence of OpenedSeries
        In channel order.
    main : OpenedSeries
        The one whose grid the mask lies on.
    channels : sequence of str
        What each series feeds, in the same order.
    """
    report = {
        "format": REPORT_FORMAT,
        "request_id": request_id,
        "intended_use": intended_use,
        "result": result.to_json(),
        "segments": [_segment(spec, number) for number, spec in enumerate(specs, start=1)],
        "geometry": _geometry(main.geometry),
        "inputs": [
            _input(opened, channel, is_main=opened is main)
            for opened, channel in zip(series, channels, strict=True)
        ],
        "device": device,
        "software": software_versions(),
    }
    path.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


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
    return {"number": number, **asdict(spec)}


def _geometry(geometry: Geometry) -> dict[str, Any]:
    return {
        "shape": list(geometry.shape),
        "spacing_mm": list(geometry.spacing_mm),
        "affine_lps": geometry.affine_lps.tolist(),
        "affine_ras": geometry.affine_ras.tolist(),
        "voxel_volume_ml": geometry.voxel_volume_ml,
        "frame_of_reference_uid": geometry.frame_of_reference_uid,
    }


def _input(opened: OpenedSeries, channel: str, *, is_main: bool) -> dict[str, Any]:
    return {
        "channel": channel,
        "is_main": is_main,
        "series_instance_uid": opened.series_instance_uid,
        "sop_instance_uids": list(
            dict.fromkeys(source.sop_instance_uid for source in opened.sources)
        ),
        "shape": list(opened.geometry.shape),
        "spacing_mm": list(opened.geometry.spacing_mm),
        "notes": list(opened.notes),
    }
