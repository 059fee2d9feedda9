"""What the worker's own pipeline writes over served inputs comes back to its patient."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from django_queue_app import frames
from django_queue_app.pacs.embedded import EmbeddedPacs
from django_queue_app.pacs.port import SeriesDescription
from django_queue_app.privacy.pseudonymise import pseudonymise
from django_queue_app.privacy.pseudonyms import Pseudonyms
from django_queue_app.privacy.reidentify import build_vault, reidentify_json, reidentify_seg
from tests.support.dicom_phantoms import (
    CORE,
    FLIPPED,
    LESION,
    OBLIQUE_SAGITTAL,
    Grid,
    Phantom,
    lesion,
    write_enhanced,
    write_series,
)
from tests.support.imaging_models import model_entry
from tests.support.seg_files import count_dciodvfy_errors, read
from tests.support.threshold_engine import ThresholdEngine
from worker.core.job import Case, CaseResult, SeriesFiles
from worker.pipeline import segment_case

pytestmark = [pytest.mark.django_db, pytest.mark.dicom_validators]

KEY = Pseudonyms(key=b"a key of the test")


def store(files: tuple[Path, ...]) -> SeriesDescription:
    pacs = EmbeddedPacs()
    series_id = [pacs.store_instance(path.read_bytes()).series_id for path in files][-1]
    return pacs.describe_series(series_id)


def served_files(series: SeriesDescription, folder: Path) -> tuple[Path, ...]:
    folder.mkdir()
    paths = []
    for number, one in enumerate(series.instances):
        paths.append(folder / f"{number}.dcm")
        paths[-1].write_bytes(pseudonymise(EmbeddedPacs().read_instance(one.id), KEY))
    return tuple(paths)


def segment(served: tuple[Path, ...], out: Path) -> CaseResult:
    return segment_case(
        Case(
            request_id="r1",
            series=(SeriesFiles(series_id="s0", files=served),),
            main_series_id="s0",
            model="phantom_model",
            output_dir=out,
        ),
        model=model_entry(),
        engine=ThresholdEngine((LESION, CORE)),
        on_progress=lambda _stage, _fraction: None,
    )


def written(kind: str, grid: Grid, folder: Path) -> tuple[Path, ...]:
    phantom = Phantom(grid=grid, order="shuffled")
    if kind == "enhanced":
        return write_enhanced(folder / "enhanced.dcm", phantom)
    return write_series(folder, phantom)


@pytest.mark.parametrize("kind", ["classic", "enhanced"])
@pytest.mark.parametrize("grid", [FLIPPED, OBLIQUE_SAGITTAL], ids=["flipped", "oblique_sagittal"])
def test_the_workers_mask_lies_over_the_original_slices(
    tmp_path: Path, kind: str, grid: Grid
) -> None:
    series = store(written(kind, grid, tmp_path / "in"))
    segment(served_files(series, tmp_path / "served"), tmp_path / "out")
    vault = build_vault(series, [], [KEY])
    original = EmbeddedPacs().read_instance(series.instances[0].id)
    mask = reidentify_seg((tmp_path / "out" / "mask.dcm").read_bytes(), vault, original)
    assert count_dciodvfy_errors(mask.data, tmp_path) == []
    assert read(mask.data).PatientID == read(original).PatientID
    seg_id = EmbeddedPacs().store_instance(mask.data).instance_id
    drawn = np.stack(
        [np.asarray(Image.open(io.BytesIO(one))) > 0 for one in frames.render_frames(seg_id)]
    )
    assert np.array_equal(drawn, lesion(grid).transpose(2, 1, 0) > 0)


def test_the_workers_report_names_the_original_objects(tmp_path: Path) -> None:
    series = store(written("classic", FLIPPED, tmp_path / "in"))
    segment(served_files(series, tmp_path / "served"), tmp_path / "out")
    report = (tmp_path / "out" / "report.json").read_bytes()
    restored = reidentify_json(report, build_vault(series, [], [KEY])).decode()
    assert json.loads(restored)
    pseudonyms = {KEY.uid(one.sop_uid) for one in series.instances}
    pseudonyms |= {KEY.uid(series.summary.series_uid), KEY.uid(series.summary.study_uid)}
    assert not [uid for uid in pseudonyms if uid in restored]
