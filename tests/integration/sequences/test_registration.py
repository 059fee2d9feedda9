"""Series of another frame of reference: moved onto the main one, or refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest

from demo.anatomy import draw_anatomy
from demo.fields import rotation_from_degrees
from demo.phantom_dicom import MAIN, PROTOCOLS, acquire, write_series
from tests.support.imaging_models import model_entry
from tests.support.threshold_engine import ThresholdEngine
from worker.adapters import registration
from worker.adapters.dicom_read import read_series
from worker.core.errors import SeriesInvalid
from worker.core.geometry import Geometry, Volume
from worker.core.job import Case, CaseResult, SeriesFiles
from worker.pipeline import segment_case

Files = dict[str, tuple[Path, ...]]
FLAIR = PROTOCOLS[3]
CHANNELS = ("T1c", "FLAIR")
MOVED = rotation_from_degrees((4.0, -3.0, 5.0)), np.array([6.0, -8.0, 4.0])


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """T1c and FLAIR of one phantom; the latter also as if the patient had moved in between."""
    folder = tmp_path_factory.mktemp("head")
    anatomy = draw_anatomy(7, lesions=1)
    scans = {"T1c": acquire(anatomy, MAIN), "FLAIR": acquire(anatomy, FLAIR)}
    files = {name: tuple(write_series(scan, folder / name, 7)) for name, scan in scans.items()}
    files["moved"] = tuple(write_series(scans["FLAIR"], folder / "moved", 7))
    for path in files["moved"]:
        _move(path, *MOVED)
    return files


def _move(path: Path, rotation: np.ndarray, shift: np.ndarray) -> None:
    dataset = pydicom.dcmread(path)
    cosines = np.array(dataset.ImageOrientationPatient, float).reshape(2, 3) @ rotation.T
    position = rotation @ np.array(dataset.ImagePositionPatient, float) + shift
    dataset.ImageOrientationPatient = [f"{value:.9f}"[:16] for value in cosines.ravel()]
    dataset.ImagePositionPatient = [f"{value:.9f}"[:16] for value in position]
    dataset.FrameOfReferenceUID += ".1"
    dataset.save_as(path)


def run(out: Path, files: Files, other: str, mode: str) -> tuple[CaseResult, ThresholdEngine]:
    case = Case(
        request_id="r1",
        series=(
            SeriesFiles(series_id="s0", files=files["T1c"]),
            SeriesFiles(series_id="s1", files=files[other]),
        ),
        main_series_id="s0",
        model="phantom_model",
        output_dir=out,
    )
    engine = ThresholdEngine((1800, 2000))
    model = replace(model_entry(channels=CHANNELS), registration=mode)
    result = segment_case(
        case, model=model, engine=engine, on_progress=lambda _stage, _fraction: None
    )
    return result, engine


def test_it_is_refused_unless_the_models_settings_say_otherwise(
    tmp_path: Path, head: Files
) -> None:
    with pytest.raises(SeriesInvalid) as refused:
        run(tmp_path, head, "moved", "off")
    assert refused.value.code == "frame_of_reference_mismatch"


def test_a_moved_head_is_laid_back_within_a_millimetre(tmp_path: Path, head: Files) -> None:
    result, engine = run(tmp_path, head, "moved", "rigid")
    _, untouched = run(tmp_path / "plain", head, "FLAIR", "off")
    assert any("was registered to the main series" in warning for warning in result.warnings)
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    found = report["inputs"][1]["registration"]
    assert report["inputs"][0]["registration"] is None
    rotation, shift = MOVED
    true = np.eye(4)
    true[:3, :3], true[:3, 3] = rotation, shift
    steps = np.array(list(np.ndindex(3, 3, 3))) - 1.0
    points = np.c_[60.0 * steps + [2, -3, 8], np.ones(27)]
    apart = points @ (np.array(found["matrix_lps"]) - true).T
    assert np.linalg.norm(apart, axis=1).max() < 1.0
    assert found["fit_after"] > found["fit_before"] + 0.1
    assert found["rotation_deg"] == pytest.approx(7.1, abs=0.5)
    # What the network gets is what it would have got without the movement.
    assert engine.channels is not None
    assert untouched.channels is not None
    both = np.corrcoef(engine.channels[1].ravel(), untouched.channels[1].ravel())
    assert both[0, 1] > 0.98


def test_the_same_frame_is_left_alone_and_always_means_always(tmp_path: Path, head: Files) -> None:
    rigid, _ = run(tmp_path / "rigid", head, "FLAIR", "rigid")
    assert not any("registered" in warning for warning in rigid.warnings)
    always, _ = run(tmp_path / "always", head, "FLAIR", "always")
    assert any("registered" in warning for warning in always.warnings)
    assert always.sop_instance_uid != rigid.sop_instance_uid


def test_the_same_images_give_the_same_transform(head: Files) -> None:
    fixed, moving = read_series(head["T1c"]), read_series(head["moved"])
    one, other = (registration.find_transform(moving, fixed) for _ in range(2))
    assert one.matrix_lps == other.matrix_lps


def test_another_object_is_refused(head: Files) -> None:
    fixed, moving = read_series(head["T1c"]), read_series(head["FLAIR"])
    upside_down = Volume(
        array=moving.array,
        geometry=Geometry(
            shape=moving.geometry.shape,
            affine_lps=np.diag([1.0, -1.0, -1.0, 1.0]) @ moving.geometry.affine_lps,
            frame_of_reference_uid="1.2.3",
        ),
        sources=moving.sources,
    )
    with pytest.raises(SeriesInvalid) as refused:
        registration.register(upside_down, fixed, name="Series 2 (FLAIR)")
    assert refused.value.code in ("registration_poor", "registration_too_far")


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"rotation_deg": 20.5}, "registration_too_far"),
        ({"shift_mm": 30.5}, "registration_too_far"),
        ({"overlap": 0.1}, "no_overlap"),
        ({"fit_after": 1.05}, "registration_poor"),
        ({"sharpness": 1.4}, "registration_poor"),
    ],
)
def test_every_limit_refuses_with_its_code(changed: dict[str, float], code: str) -> None:
    good = registration.Registration(
        matrix_lps=tuple(tuple(row) for row in np.eye(4).tolist()),
        angles_deg=(0.0, 0.0, 0.0),
        rotation_deg=19.5,
        shift_mm=29.5,
        overlap=0.9,
        fit_before=1.1,
        fit_after=1.3,
        sharpness=2.0,
        cpu_s=1.0,
    )
    registration.check(good, "Series 2 (T1)")
    with pytest.raises(SeriesInvalid, match=r"^Series 2 \(T1\) ") as refused:
        registration.check(replace(good, **changed), "Series 2 (T1)")
    assert refused.value.code == code
