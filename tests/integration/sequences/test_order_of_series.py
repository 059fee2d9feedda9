"""The order of a request's series, from the files to the report."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset

from django_queue_app.privacy.pseudonymise import pseudonymise
from django_queue_app.privacy.pseudonyms import Pseudonyms
from tests.support.dicom_phantoms import CORE as CORE_VALUE
from tests.support.dicom_phantoms import LESION as LESION_VALUE
from tests.support.dicom_phantoms import Phantom, write_series
from tests.support.imaging_models import model_entry
from tests.support.threshold_engine import ThresholdEngine
from worker.adapters.sequence_header import read_sequence_header
from worker.core.errors import SeriesInvalid
from worker.core.job import Case, CaseResult, SeriesFiles
from worker.core.sequences import recognise
from worker.pipeline import segment_case

Physics = dict[str, Any]
T1: Physics = {"EchoTime": 11, "RepetitionTime": 620, "ScanningSequence": "SE"}
T1C: Physics = {**T1, "ContrastBolusAgent": "Gadovist 7.5 ml"}
T2: Physics = {"EchoTime": 102, "RepetitionTime": 4800, "ScanningSequence": "SE"}
FLAIR: Physics = {"EchoTime": 94, "RepetitionTime": 9000, "InversionTime": 2500}
FLAIR["ScanningSequence"] = "IR"
BRATS = ("T1c", "T1", "T2", "FLAIR")


def dce(minutes: int) -> Physics:
    return {
        "EchoTime": 1.7,
        "RepetitionTime": 4.6,
        "ScanningSequence": "GR",
        "AcquisitionDate": "20260301",
        "AcquisitionTime": f"10{minutes:02d}30.25",
    }


def edit(physics: Physics) -> Callable[[int, Dataset], None]:
    def change(_k: int, dataset: Dataset) -> None:
        for keyword, value in physics.items():
            setattr(dataset, keyword, value)

    return change


def case_of(tmp_path: Path, series: list[Physics], *, main: int = 0, order: str = "given") -> Case:
    files = [
        write_series(tmp_path / str(n), Phantom(series=f"series {n}"), edit=edit(physics))
        for n, physics in enumerate(series)
    ]
    return Case(
        request_id="r1",
        series=tuple(SeriesFiles(series_id=f"s{n}", files=one) for n, one in enumerate(files)),
        main_series_id=f"s{main}",
        model="phantom_model",
        output_dir=tmp_path / "out",
        order=order,
    )


def run(case: Case, channels: tuple[str, ...], **settings: str) -> CaseResult:
    return segment_case(
        Case.from_json(json.loads(json.dumps(case.to_json()))),
        model=replace(model_entry(channels=channels), **settings),
        engine=ThresholdEngine((LESION_VALUE, CORE_VALUE)),
        on_progress=lambda _stage, _fraction: None,
    )


def test_a_wrong_order_is_a_warning_of_the_result(tmp_path: Path) -> None:
    result = run(case_of(tmp_path, [T1C, T1, FLAIR, T2]), BRATS)
    assert [warning[:30] for warning in result.warnings] == [
        "Series 3 looks like FLAIR (con",
        "Series 4 looks like T2 (confid",
    ]
    assert [(use.channel, use.series_id, use.sequence) for use in result.inputs] == [
        ("T1c", "s0", "T1c"),
        ("T1", "s1", "T1"),
        ("T2", "s2", "FLAIR"),
        ("FLAIR", "s3", "T2"),
    ]


def test_a_wrong_order_is_refused_where_the_model_says_so(tmp_path: Path) -> None:
    case = case_of(tmp_path, [T1, T1C, T2, FLAIR])
    with pytest.raises(SeriesInvalid, match="takes T1 there: check the order") as refused:
        run(case, BRATS, sequence_check="refuse")
    assert refused.value.code == "wrong_sequence_order"
    assert not case.output_dir.exists()


def test_the_check_can_be_off_and_a_right_order_passes(tmp_path: Path) -> None:
    wrong = case_of(tmp_path / "wrong", [T2, FLAIR])
    assert run(wrong, ("FLAIR", "T2"), sequence_check="off").warnings == ()
    right = case_of(tmp_path / "right", [T1C, T1, T2, FLAIR])
    assert run(right, BRATS, sequence_check="refuse").warnings == ()


def test_series_are_sorted_and_the_main_one_stays_the_main_one(tmp_path: Path) -> None:
    case = case_of(tmp_path, [FLAIR, T2, T1C, T1], main=1, order="auto")
    result = run(case, BRATS, sequence_check="refuse")
    assert [use.series_id for use in result.inputs] == ["s2", "s3", "s1", "s0"]
    assert "series 3 for T1c, series 4 for T1, series 2 for T2" in result.warnings[0]
    seg = pydicom.dcmread(tmp_path / "out" / "mask.dcm")
    referenced = seg.ReferencedSeriesSequence[0].SeriesInstanceUID
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    (main,) = (item for item in report["inputs"] if item["is_main"])
    assert (main["channel"], main["series_id"]) == ("T2", "s1")
    assert main["series_instance_uid"] == referenced
    assert report["order"]["asked"] == "auto"
    assert report["order"]["given_places"] == [3, 4, 2, 1]
    assert report["inputs"][3]["sequence"]["reasons"][0] == "TI 2500 ms"


def test_what_can_not_be_sorted_is_refused_before_inference(tmp_path: Path) -> None:
    case = case_of(tmp_path, [FLAIR, T2, T1, T1], order="auto")
    with pytest.raises(SeriesInvalid, match="no series can be recognised as T1c") as refused:
        run(case, BRATS)
    assert (refused.value.code, refused.value.is_retryable) == ("sequence_order_unclear", False)


def test_swapped_phases_are_noticed_by_their_acquisition_time(tmp_path: Path) -> None:
    channels = ("pre", "post 1", "post 2")
    result = run(case_of(tmp_path / "a", [dce(1), dce(5), dce(3)]), channels)
    assert "by acquisition time" in result.warnings[0]
    sorted_ = run(case_of(tmp_path / "b", [dce(5), dce(1), dce(3)], order="auto"), channels)
    assert [use.series_id for use in sorted_.inputs] == ["s1", "s2", "s0"]


@pytest.mark.parametrize(
    ("physics", "expected"),
    [(T1, "T1"), (T1C, "T1c"), (T2, "T2"), (FLAIR, "FLAIR"), (dce(3), "T1")],
    ids=["T1", "T1c", "T2", "FLAIR", "phase"],
)
def test_what_tells_a_sequence_passes_pseudonymisation(
    tmp_path: Path, physics: Physics, expected: str
) -> None:
    """Times too: they order phases, and dates are shifted alike for all series of a patient."""
    key = Pseudonyms(key=b"a key of the test")
    header, plain = (
        read_sequence_header([pydicom.dcmread(path, stop_before_pixels=True) for path in files])
        for files in (
            _pseudonymised(write_series(tmp_path, edit=edit(physics)), key),
            write_series(tmp_path / "plain", edit=edit(physics)),
        )
    )
    assert recognise(header).sequence == expected
    if "AcquisitionTime" in physics:
        assert header.acquired_s is not None
        assert plain.acquired_s is not None
        assert (plain.acquired_s - header.acquired_s) % 86400 == 0


def _pseudonymised(files: tuple[Path, ...], key: Pseudonyms) -> tuple[Path, ...]:
    for path in files:
        path.write_bytes(pseudonymise(path.read_bytes(), key))
    return files
