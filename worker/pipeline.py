"""One case, from DICOM files to a mask: read, align, infer, measure, write, check.

Runs in the child process, where torch may be; itself it knows only the port of the engine.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from worker.adapters import memory
from worker.adapters.dicom_read import OpenedSeries, allocate, decode_series, open_series
from worker.adapters.dicom_seg import MaskRequest, write_dicom_seg
from worker.adapters.dicom_seg_check import check_dicom_seg
from worker.adapters.nifti import write_nifti
from worker.adapters.preview import write_preview
from worker.adapters.report import write_report
from worker.adapters.resample import check_comparable, resample_image
from worker.core.errors import ModelInvalid, SeriesInvalid, WorkerError
from worker.core.geometry import Geometry, Volume
from worker.core.job import (
    MASK_DICOM,
    MASK_NIFTI,
    PREVIEW,
    REPORT,
    Case,
    CaseResult,
    ModelIdentity,
)
from worker.core.measurement import measure, slice_extent, union_of, volume_ml
from worker.core.segments import Labels, SegmentSpec, ordered_by_label

if TYPE_CHECKING:
    from pathlib import Path

    from worker.catalogue import ModelEntry
    from worker.ports import Engine, OnFraction, OnProgress

LOADING, INFERRING, WRITING = "loading", "inferring", "writing"


class _Timings:
    """Seconds by stage; a stage that comes again adds up."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - started
            self.seconds[name] = round(self.seconds.get(name, 0.0) + spent, 4)

    def total(self) -> float:
        return round(time.perf_counter() - self._started, 3)


class _Loaded:
    """The inputs of a case on one grid, in channel order."""

    def __init__(
        self,
        *,
        channels: npt.NDArray[np.float32],
        series: tuple[OpenedSeries, ...],
        main_index: int,
        warnings: list[str],
    ) -> None:
        self.channels = channels
        self.series = series
        self.main_index = main_index
        self.warnings = warnings

    @property
    def main(self) -> OpenedSeries:
        return self.series[self.main_index]

    @property
    def others(self) -> tuple[OpenedSeries, ...]:
        """The further series, each once, also where one feeds several channels."""
        by_uid = {item.series_instance_uid: item for item in self.series}
        by_uid.pop(self.main.series_instance_uid)
        return tuple(by_uid.values())

    @property
    def volume(self) -> Volume:
        """The main series."""
        return Volume(
            array=self.channels[self.main_index],
            geometry=self.main.geometry,
            sources=self.main.sources,
        )


def segment_case(
    case: Case, *, model: ModelEntry, engine: Engine, on_progress: OnProgress
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
    timings = _Timings()
    on_progress(LOADING, 0.0)
    loaded = _load(case, model, timings, on_progress)
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
    return _write(case, model, engine, loaded, labels, specs, timings, on_progress)


def _load(case: Case, model: ModelEntry, timings: _Timings, on_progress: OnProgress) -> _Loaded:
    main_index = _check_channels(case, model)
    count = len(case.series)
    # Headers are a small part of the work, but the part that can refuse: all of them come first.
    share = 0.4 / count
    opened = []
    with timings.stage("read"):
        for index, item in enumerate(case.series):
            opened.append(_open(item.files, index, count, _part(on_progress, index * share, share)))
    _check_one_study(opened, main_index, model)
    geometry = opened[main_index].geometry
    warnings = [
        f"{_title(index, model)}: {note}"
        for index, item in enumerate(opened)
        for note in item.notes
    ]
    i, j, k = geometry.shape
    # (C, K, J, I) in memory, so that each frame is written where it stays; shown as (C, I, J, K).
    channels = np.empty((count, k, j, i), dtype=np.float32).transpose(0, 3, 2, 1)
    share = 0.6 / count
    for index, part in enumerate(opened):
        progress = _part(on_progress, 0.4 + index * share, share)
        name = _title(index, model)
        if _fill(channels[index], part, geometry, name, timings, progress):
            warnings.append(f"{name} lies on another grid and was resampled to the main series.")
    return _Loaded(
        channels=channels, series=tuple(opened), main_index=main_index, warnings=warnings
    )


def _part(on_progress: OnProgress, start: float, share: float) -> OnFraction:
    return lambda fraction: on_progress(LOADING, min(1.0, start + share * fraction))


def _check_channels(case: Case, model: ModelEntry) -> int:
    """Refuse another number of series than the model has channels; give the main one's index."""
    if len(case.series) != len(model.channels):
        raise SeriesInvalid(
            f"The model {model.name} takes {len(model.channels)} series in this order: "
            f"{', '.join(model.channels)}; this request names {len(case.series)}. Choose one "
            "series for each.",
            code="channel_count",
        )
    for index, item in enumerate(case.series):
        if item.series_id == case.main_series_id:
            return index
    raise SeriesInvalid(
        "The main series isn't among the series of this request; file the request again.",
        code="main_series_missing",
    )


def _open(files: Sequence[Path], index: int, count: int, progress: OnFraction) -> OpenedSeries:
    try:
        return open_series(files, on_progress=progress)
    except SeriesInvalid as error:
        if count == 1:
            raise
        raise SeriesInvalid(
            f"Series {index + 1} of {count}: {error.message}", code=error.code
        ) from None


def _check_one_study(opened: Sequence[OpenedSeries], main_index: int, model: ModelEntry) -> None:
    """Refuse series of several studies: a DICOM SEG refers to sources of its own study."""
    study = opened[main_index].headers[0].study_instance_uid
    for index, item in enumerate(opened):
        if item.headers[0].study_instance_uid != study:
            raise SeriesInvalid(
                f"{_title(index, model)} belongs to another study than the main series; choose "
                "series of one examination.",
                code="multiple_studies",
            )


def _title(index: int, model: ModelEntry) -> str:
    return f"Series {index + 1} ({model.channels[index]})"


def _fill(
    out: npt.NDArray[np.float32],
    opened: OpenedSeries,
    target: Geometry,
    name: str,
    timings: _Timings,
    progress: OnFraction,
) -> bool:
    """Decode a series into its channel; True where it had to be resampled."""
    if opened.geometry.is_same_grid(target):
        with timings.stage("decode"):
            decode_series(opened, out=out, on_progress=progress)
        return False
    check_comparable(opened.geometry, target, name=name)
    with timings.stage("decode"):
        volume = decode_series(opened, out=allocate(opened.geometry.shape), on_progress=progress)
    with timings.stage("resample"):
        resample_image(volume, target, out=out)
    return True


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


def _result(
    loaded: _Loaded, model: ModelEntry, labels: Labels, specs: Sequence[SegmentSpec], uid: str
) -> CaseResult:
    geometry = loaded.main.geometry
    tumor_specs = [spec for spec in specs if spec.counts_as_tumor]
    tumor = union_of(labels, tumor_specs)
    # A model without tumour segments (brain extraction) still says where its mask is.
    start, end = slice_extent(tumor if tumor_specs else union_of(labels, specs))
    voxels = int(np.count_nonzero(tumor))
    warnings = [*model.warnings, *loaded.warnings, *labels.notes]
    if labels.is_overlapping:
        warnings.append(
            "Segments overlap: mask.nii.gz shows the smaller one there, mask.dcm holds both."
        )
    return CaseResult(
        tumor_detected=voxels > 0,
        tumor_volume_voxels=voxels,
        tumor_volume_ml=volume_ml(voxels, geometry),
        segments=measure(labels, specs, geometry),
        total_slices=geometry.shape[2],
        start_slice_index=start,
        end_slice_index=end,
        elapsed_time_seconds=0.0,
        model=_identity(model),
        sop_instance_uid=uid,
        warnings=tuple(warnings),
    )


def _identity(model: ModelEntry) -> ModelIdentity:
    return ModelIdentity(name=model.name, version=model.version, sha256=model.sha256)


def _write(
    case: Case,
    model: ModelEntry,
    engine: Engine,
    loaded: _Loaded,
    labels: Labels,
    specs: tuple[SegmentSpec, ...],
    timings: _Timings,
    on_progress: OnProgress,
) -> CaseResult:
    case.output_dir.mkdir(parents=True, exist_ok=True)
    uid = _write_masks(case, model, loaded, labels, specs, timings)
    on_progress(WRITING, 0.7)
    with timings.stage("measure"):
        result = _result(loaded, model, labels, specs, uid)
    with timings.stage("preview"):
        write_preview(
            case.output_dir / PREVIEW,
            volume=loaded.volume,
            labels=labels,
            specs=specs,
            measurements=result.segments,
            title=f"{model.name} {model.version}",
            notices=model.warnings,
        )
    on_progress(WRITING, 0.9)
    result = replace(
        result,
        elapsed_time_seconds=timings.total(),
        timings=dict(timings.seconds),
        peak_memory_bytes=memory.peak_bytes(),
    )
    write_report(
        case.output_dir / REPORT,
        request_id=case.request_id,
        result=result,
        specs=specs,
        series=loaded.series,
        main=loaded.main,
        channels=model.channels,
        intended_use=model.intended_use,
        device=engine.device,
    )
    on_progress(WRITING, 1.0)
    return result


def _write_masks(
    case: Case,
    model: ModelEntry,
    loaded: _Loaded,
    labels: Labels,
    specs: tuple[SegmentSpec, ...],
    timings: _Timings,
) -> str:
    """Write DICOM SEG and NIfTI, and give the former's UID once its place is proved."""
    request = MaskRequest(
        request_id=case.request_id,
        labels=labels,
        specs=specs,
        main=loaded.main,
        others=loaded.others,
        model=_identity(model),
        intended_use=model.intended_use,
    )
    path = case.output_dir / MASK_DICOM
    with timings.stage("seg"):
        uid = write_dicom_seg(request, path)
    with timings.stage("check"):
        check_dicom_seg(path, labels, specs, loaded.main.geometry)
    with timings.stage("nifti"):
        write_nifti(labels, loaded.main.geometry, case.output_dir / MASK_NIFTI)
    return uid
