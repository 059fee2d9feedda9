"""One case, from DICOM files to a mask: read, align, infer, measure, write, check.

Runs in the child process, where torch may be; itself it knows only the port of the engine.
"""

from __future__ import annotations

import json
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from worker.adapters import memory
from worker.adapters.dicom_seg import MaskRequest, write_dicom_seg
from worker.adapters.dicom_seg_check import check_dicom_seg
from worker.adapters.nifti import write_nifti
from worker.adapters.preview import write_preview
from worker.adapters.report import make_report, write_report
from worker.adapters.report_page import write_report_page
from worker.case_inputs import LoadedInputs, load_inputs
from worker.core.errors import ModelInvalid, WorkerError
from worker.core.geometry import Geometry
from worker.core.job import (
    MASK_DICOM,
    MASK_NIFTI,
    PREVIEW,
    REPORT,
    REPORT_PAGE,
    Case,
    CaseResult,
    ModelIdentity,
)
from worker.core.measurement import measure, slice_extent, union_of, volume_ml
from worker.core.postprocess import Step, postprocess
from worker.core.segments import Labels, SegmentSpec, ordered_by_label
from worker.timings import Timings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from worker.catalogue import ModelEntry
    from worker.ports import Engine, OnProgress

    Turn = Callable[[], AbstractContextManager[None]]

LOADING, INFERRING, WRITING = "loading", "inferring", "writing"


def segment_case(
    case: Case,
    *,
    model: ModelEntry,
    engine: Engine,
    on_progress: OnProgress,
    timings: Timings | None = None,
    turn: Turn | None = None,
) -> CaseResult:
    """Segment one case and write its artifacts into `case.output_dir`.

    Parameters
    ----------
    case : Case
        Its series in the model's channel order.
    model : ModelEntry
        Checked against its pin.
    engine : Engine
        Runs the network.
    on_progress : callable
        Called with a stage (loading, inferring, writing) and 0 to 1.
    timings : Timings, optional
        Counts the stages; one of its own by default.
    turn : callable, optional
        Gives what is entered while the network runs: a device that other processes use too serves
        one case at a time. Waiting for it is a stage of its own.

    Returns
    -------
    CaseResult

    Raises
    ------
    SeriesInvalid
        The images can't be segmented as they are.
    WorkerError
        What the engine raises, and `MaskMisplaced`.
    """
    memory.reset_peak()
    timings = timings or Timings()
    on_progress(LOADING, 0.0)
    loaded = load_inputs(case, model, timings, lambda fraction: on_progress(LOADING, fraction))
    on_progress(LOADING, 1.0)
    with ExitStack() as on_device:
        if turn is not None:
            with timings.stage("wait"):
                on_device.enter_context(turn())
        on_progress(INFERRING, 0.0)
        with timings.stage("load_model"):
            engine.load(model)
        with timings.stage("infer"):
            labels = engine.segment(
                model,
                loaded.channels,
                loaded.main.geometry.affine_ras,
                lambda fraction: on_progress(INFERRING, fraction),
            )
    specs = ordered_by_label(model.segments)
    check_labels(labels, specs, loaded.main.geometry)
    on_progress(WRITING, 0.0)
    with timings.stage("postprocess"):
        labels, steps = postprocess(
            labels.in_slice_order(), model.postprocess, loaded.main.geometry
        )
    found = _Found(model=model, loaded=loaded, labels=labels, specs=specs, steps=steps)
    return _write(case, found, engine, timings, on_progress)


def check_labels(labels: Labels, specs: Sequence[SegmentSpec], geometry: Geometry) -> None:
    """Refuse what an engine must not give: another grid, or labels that nothing describes.

    Raises
    ------
    WorkerError
        `labels_on_other_grid` or `labels_of_other_type`.
    ModelInvalid
        `label_without_code`.
    """
    if labels.array.dtype not in (np.uint8, np.uint16):
        raise WorkerError(
            f"The network gave labels as {labels.array.dtype}, not as small whole numbers; check "
            "the model's postprocessing.",
            code="labels_of_other_type",
        )
    if labels.shape != geometry.shape:
        raise WorkerError(
            f"The network gave labels on a grid of {labels.shape} for images of {geometry.shape}; "
            "check the model's postprocessing.",
            code="labels_on_other_grid",
        )
    unknown = labels.present_values() - {spec.label_value for spec in specs}
    if unknown:
        raise ModelInvalid(
            f"The model gave label values that config.yaml has no code for ({sorted(unknown)}); "
            "add them under the model's segments and run 'mri-worker models add' again.",
            code="label_without_code",
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Found:
    """What was found, in what, by what."""

    model: ModelEntry
    loaded: LoadedInputs
    labels: Labels
    specs: tuple[SegmentSpec, ...]
    steps: tuple[Step, ...]

    @property
    def geometry(self) -> Geometry:
        return self.loaded.main.geometry

    @property
    def identity(self) -> ModelIdentity:
        model = self.model
        return ModelIdentity(name=model.name, version=model.version, sha256=model.sha256)


def _result(found: _Found, uid: str) -> CaseResult:
    labels, specs, geometry = found.labels, found.specs, found.geometry
    tumor_specs = [spec for spec in specs if spec.counts_as_tumor]
    tumor = union_of(labels, tumor_specs)
    # A model without tumour segments (brain extraction) still says where its mask is.
    start, end = slice_extent(tumor if tumor_specs else union_of(labels, specs))
    voxels = int(np.count_nonzero(tumor))
    return CaseResult(
        tumor_detected=voxels > 0,
        tumor_volume_voxels=voxels,
        tumor_volume_ml=volume_ml(voxels, geometry),
        segments=measure(labels, specs, geometry),
        total_slices=geometry.shape[2],
        start_slice_index=start,
        end_slice_index=end,
        elapsed_time_seconds=0.0,
        model=found.identity,
        sop_instance_uid=uid,
        inputs=found.loaded.uses,
        warnings=_warnings(found),
    )


def _warnings(found: _Found) -> tuple[str, ...]:
    warnings = [*found.model.warnings, *found.loaded.warnings, *found.labels.notes]
    if found.labels.is_overlapping:
        warnings.append(
            "Segments overlap: mask.nii.gz shows the smaller one there, mask.dcm holds both."
        )
    removed = sum(sum(step.removed.values()) for step in found.steps)
    added = sum(sum(step.added.values()) for step in found.steps)
    if removed or added:
        warnings.append(
            f"Postprocessing took out {removed:,} voxels and added {added:,}; report.json lists "
            "the steps."
        )
    return tuple(warnings)


def _write(
    case: Case, found: _Found, engine: Engine, timings: Timings, on_progress: OnProgress
) -> CaseResult:
    case.output_dir.mkdir(parents=True, exist_ok=True)
    uid = _write_masks(case, found, timings)
    on_progress(WRITING, 0.7)
    with timings.stage("measure"):
        result = _result(found, uid)
    with timings.stage("preview"):
        picture = write_preview(
            case.output_dir / PREVIEW,
            volume=found.loaded.volume,
            labels=found.labels,
            specs=found.specs,
            measurements=result.segments,
            title=f"{found.model.name} {found.model.version}",
            notices=found.model.warnings,
        )
    on_progress(WRITING, 0.9)
    result = replace(
        result,
        elapsed_time_seconds=timings.total(),
        timings=dict(timings.seconds),
        peak_memory_bytes=memory.peak_bytes(),
    )
    report = make_report(
        request_id=case.request_id,
        order=case.order,
        result=result,
        specs=found.specs,
        loaded=found.loaded,
        model=found.model,
        steps=found.steps,
        device=engine.device,
    )
    with timings.stage("report"):  # too late to stand in the report itself
        write_report(case.output_dir / REPORT, report)
        write_report_page(case.output_dir / REPORT_PAGE, report, picture=picture)
    on_progress(WRITING, 1.0)
    return result


def _write_masks(case: Case, found: _Found, timings: Timings) -> str:
    """Write DICOM SEG and NIfTI, and give the former's UID once its place is proved."""
    labels, specs, loaded = found.labels, found.specs, found.loaded
    request = MaskRequest(
        request_id=_mask_name(case, found.model),
        labels=labels,
        specs=specs,
        main=loaded.main,
        others=loaded.others,
        model=found.identity,
        intended_use=found.model.intended_use,
        seg_type=found.model.seg_type,
    )
    path = case.output_dir / MASK_DICOM
    with timings.stage("seg"):
        uid = write_dicom_seg(request, path)
    with timings.stage("check"):
        check_dicom_seg(path, labels, specs, loaded.main.geometry)
    with timings.stage("nifti"):
        write_nifti(labels, loaded.main.geometry, case.output_dir / MASK_NIFTI)
    return uid


def _mask_name(case: Case, model: ModelEntry) -> str:
    """Name what a mask's UIDs are made of: settings that change the mask change them too."""
    settings = {"registration": model.registration, **model.postprocess.to_json()}
    if model.registration == "off" and model.postprocess.is_off:
        return case.request_id
    return f"{case.request_id}|{json.dumps(settings, sort_keys=True)}"
