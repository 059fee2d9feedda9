import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from PIL import Image

from tests.support.dicom_phantoms import (
    AXIAL,
    GRIDS,
    OBLIQUE,
    Grid,
    Phantom,
    lesion,
    paint,
    rotated,
    uid,
    write_enhanced,
    write_series,
)
from tests.support.dicom_phantoms import (
    CORE as CORE_VALUE,
)
from tests.support.dicom_phantoms import (
    LESION as LESION_VALUE,
)
from tests.support.imaging_models import CORE, LESION, TISSUE, model_entry
from tests.support.threshold_engine import ThresholdEngine
from worker.core.errors import ModelInvalid, SeriesInvalid, WorkerError
from worker.core.job import ARTIFACTS, Case, CaseResult, SeriesFiles
from worker.core.segments import Labels
from worker.pipeline import segment_case


def threshold_engine(*, is_overlapping: bool = False) -> ThresholdEngine:
    return ThresholdEngine((LESION_VALUE, CORE_VALUE), is_overlapping=is_overlapping)


def case_of(tmp_path: Path, *series: tuple[Path, ...], main: int = 0) -> Case:
    return Case(
        request_id="r1",
        series=tuple(
            SeriesFiles(series_id=f"s{index}", files=files) for index, files in enumerate(series)
        ),
        main_series_id=f"s{main}",
        model="phantom_model",
        output_dir=tmp_path / "out",
    )


def ignore(_stage: str, _fraction: float) -> None:
    pass


def run(
    tmp_path: Path, grid: Grid = OBLIQUE, *, order: str = "shuffled", **options: bool
) -> CaseResult:
    files = write_series(tmp_path / "in", Phantom(grid=grid, order=order))
    return segment_case(
        case_of(tmp_path, files),
        model=model_entry(intended_use="Demonstration, not for clinical use"),
        engine=threshold_engine(**options),
        on_progress=ignore,
    )


@pytest.mark.parametrize("name", GRIDS)
def test_case_finds_the_lesion_where_it_is(tmp_path: Path, name: str) -> None:
    grid = GRIDS[name]
    result = run(tmp_path, grid)
    truth = lesion(grid)
    assert result.tumor_detected
    assert result.tumor_volume_voxels == int((truth > 0).sum())
    assert result.tumor_volume_ml == pytest.approx(
        result.tumor_volume_voxels * grid.voxel_volume_ml, abs=1e-5
    )
    assert (result.total_slices, result.start_slice_index, result.end_slice_index) == (14, 3, 8)
    assert [(item.number, item.label, item.voxels) for item in result.segments] == [
        (1, "Lesion", int((truth == 1).sum())),
        (2, "Core", int((truth == 2).sum())),
    ]
    image = nib.load(tmp_path / "out" / "mask.nii.gz")
    np.testing.assert_array_equal(np.asarray(image.dataobj), np.array([0, 2, 5])[truth])
    ras = image.affine @ [9, 6, 7, 1]
    np.testing.assert_allclose(ras[:3] * [-1, -1, 1], grid.world(9, 6, 7), atol=1e-4)


def test_result_travels_as_json(tmp_path: Path) -> None:
    result = run(tmp_path)
    assert CaseResult.from_json(json.loads(json.dumps(result.to_json()))) == result


def test_all_artifacts_are_written(tmp_path: Path) -> None:
    result = run(tmp_path)
    assert result.artifacts == ARTIFACTS
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(ARTIFACTS)
    seg = pydicom.dcmread(tmp_path / "out" / "mask.dcm")
    assert seg.SOPInstanceUID == result.sop_instance_uid
    assert result.peak_memory_bytes > 10_000_000
    for stage in ("read", "decode", "infer", "seg", "check", "nifti", "preview"):
        assert result.timings[stage] >= 0


def test_report_says_what_was_done_and_names_no_patient(tmp_path: Path) -> None:
    result = run(tmp_path)
    text = (tmp_path / "out" / "report.json").read_text(encoding="utf-8")
    report = json.loads(text)
    assert report["result"] == json.loads(json.dumps(result.to_json()))
    assert report["intended_use"] == "Demonstration, not for clinical use"
    assert [item["label_value"] for item in report["segments"]] == [2, 5]
    assert report["segments"][0]["label_ko"] == "병변"
    assert report["inputs"][0]["series_instance_uid"] == uid("main")
    assert report["inputs"][0]["sop_instance_uids"][0] == uid("main|0")
    assert report["software"]["highdicom"]
    for secret in ("Phantom^", "PHANTOM", "Secret", "SECRET", "19700101"):
        assert secret not in text


def test_empty_mask_is_a_valid_result(tmp_path: Path) -> None:
    files = write_series(tmp_path / "in")
    result = segment_case(
        case_of(tmp_path, files),
        model=model_entry(),
        engine=ThresholdEngine((5000, 6000)),
        on_progress=ignore,
    )
    assert not result.tumor_detected
    assert result.tumor_volume_ml == 0
    assert (result.start_slice_index, result.end_slice_index) == (None, None)
    assert [item.voxels for item in result.segments] == [0, 0]
    assert all((tmp_path / "out" / name).stat().st_size > 0 for name in ARTIFACTS)


def test_overlapping_segments_count_a_voxel_once_as_tumor(tmp_path: Path) -> None:
    result = run(tmp_path, is_overlapping=True)
    truth = lesion(OBLIQUE)
    assert result.tumor_volume_voxels == int((truth > 0).sum())
    assert result.segments[0].voxels == int((truth > 0).sum())
    assert any("Segments overlap" in warning for warning in result.warnings)


def test_segment_that_is_no_tumor_is_not_counted_as_one(tmp_path: Path) -> None:
    files = write_series(tmp_path / "in")
    result = segment_case(
        case_of(tmp_path, files),
        model=model_entry(TISSUE),
        engine=ThresholdEngine((100,)),
        on_progress=ignore,
    )
    assert not result.tumor_detected
    assert result.segments[0].voxels > 0
    assert (result.start_slice_index, result.end_slice_index) == (1, 12)


def test_enhanced_series_goes_the_whole_way(tmp_path: Path) -> None:
    files = write_enhanced(tmp_path / "in.dcm", Phantom(grid=OBLIQUE, order="shuffled"))
    result = segment_case(
        case_of(tmp_path, files), model=model_entry(), engine=threshold_engine(), on_progress=ignore
    )
    assert result.tumor_volume_voxels == int((lesion(OBLIQUE) > 0).sum())


def test_channels_and_affine_reach_the_engine_as_the_port_says(tmp_path: Path) -> None:
    engine = threshold_engine()
    first = write_series(tmp_path / "a", Phantom(grid=OBLIQUE))
    second = write_series(
        tmp_path / "b", Phantom(grid=OBLIQUE, series="b", slope=2.0, intercept=1.0)
    )
    segment_case(
        case_of(tmp_path, first, second),
        model=model_entry(channels=("T1", "T2")),
        engine=engine,
        on_progress=ignore,
    )
    assert engine.channels is not None
    assert engine.affine_ras is not None
    assert engine.channels.dtype == np.float32
    np.testing.assert_array_equal(engine.channels[0], paint(OBLIQUE))
    np.testing.assert_array_equal(engine.channels[1], paint(OBLIQUE) * 2.0 + 1.0)
    ras = engine.affine_ras @ [3, 4, 5, 1]
    np.testing.assert_allclose(ras[:3] * [-1, -1, 1], OBLIQUE.world(3, 4, 5), atol=1e-6)


def test_series_on_another_grid_is_resampled_to_the_main_one(tmp_path: Path) -> None:
    tilted = replace(rotated(AXIAL, z=4), shape=(30, 26, 16), spacing_mm=(1.1, 1.0, 2.0))
    main = write_series(tmp_path / "a", Phantom(grid=AXIAL))
    flat = np.full(tilted.shape, 700, np.uint16)
    other = write_series(tmp_path / "b", Phantom(grid=tilted, series="b"), array=flat)
    engine = threshold_engine()
    result = segment_case(
        case_of(tmp_path, main, other),
        model=model_entry(channels=("T1", "T2")),
        engine=engine,
        on_progress=ignore,
    )
    assert result.warnings == (
        "Series 2 (T2) lies on another grid and was resampled to the main series.",
    )
    assert engine.channels is not None
    assert engine.channels[1][8, 8, 5] == pytest.approx(700)
    assert result.timings["resample"] > 0


def test_mask_lies_on_the_main_series_wherever_it_stands(tmp_path: Path) -> None:
    wide = replace(AXIAL, shape=(26, 20, 16))
    first = write_series(tmp_path / "a", Phantom(grid=wide, series="a"))
    main = write_series(tmp_path / "b", Phantom(grid=AXIAL, series="b"))
    result = segment_case(
        case_of(tmp_path, first, main, main=1),
        model=model_entry(channels=("T1", "T2")),
        engine=threshold_engine(),
        on_progress=ignore,
    )
    assert result.total_slices == 14
    assert nib.load(tmp_path / "out" / "mask.nii.gz").shape == AXIAL.shape


@pytest.mark.parametrize(
    ("code", "change"),
    [
        ("frame_of_reference_mismatch", {"frame_of_reference_uid": "1.2.3.4"}),
        ("no_overlap", {"origin_mm": (900.0, 0.0, 0.0)}),
    ],
)
def test_series_that_cannot_be_laid_over_the_main_one_is_refused(
    tmp_path: Path, code: str, change: dict[str, object]
) -> None:
    other = replace(AXIAL, **change)  # type: ignore[arg-type]
    main = write_series(tmp_path / "a")
    with pytest.raises(SeriesInvalid, match=r"^Series 2 \(T2\)") as refused:
        segment_case(
            case_of(tmp_path, main, write_series(tmp_path / "b", Phantom(grid=other, series="b"))),
            model=model_entry(channels=("T1", "T2")),
            engine=threshold_engine(),
            on_progress=ignore,
        )
    assert refused.value.code == code


def test_series_of_another_study_is_refused(tmp_path: Path) -> None:
    other = write_series(tmp_path / "b", Phantom(series="b", study="another"))
    with pytest.raises(SeriesInvalid, match="another study") as refused:
        segment_case(
            case_of(tmp_path, write_series(tmp_path / "a"), other),
            model=model_entry(channels=("T1", "T2")),
            engine=threshold_engine(),
            on_progress=ignore,
        )
    assert refused.value.code == "multiple_studies"


def test_one_series_can_feed_two_channels(tmp_path: Path) -> None:
    files = write_series(tmp_path / "a")
    segment_case(
        case_of(tmp_path, files, files),
        model=model_entry(channels=("T1", "T2")),
        engine=threshold_engine(),
        on_progress=ignore,
    )
    seg = pydicom.dcmread(tmp_path / "out" / "mask.dcm")
    assert [len(item.ReferencedInstanceSequence) for item in seg.ReferencedSeriesSequence] == [14]


def test_wrong_number_of_series_names_what_the_model_wants(tmp_path: Path) -> None:
    with pytest.raises(SeriesInvalid, match="T1c, T1, T2, FLAIR; this request names 1") as refused:
        segment_case(
            case_of(tmp_path, write_series(tmp_path / "in")),
            model=model_entry(channels=("T1c", "T1", "T2", "FLAIR")),
            engine=threshold_engine(),
            on_progress=ignore,
        )
    assert refused.value.code == "channel_count"


def test_main_series_must_be_among_the_inputs(tmp_path: Path) -> None:
    case = replace(case_of(tmp_path, write_series(tmp_path / "in")), main_series_id="s9")
    with pytest.raises(SeriesInvalid) as refused:
        segment_case(case, model=model_entry(), engine=threshold_engine(), on_progress=ignore)
    assert refused.value.code == "main_series_missing"


def test_bad_series_is_named_by_its_place(tmp_path: Path) -> None:
    good = write_series(tmp_path / "a")
    bad = write_series(tmp_path / "b", Phantom(series="b"))
    with pytest.raises(SeriesInvalid, match=r"^Series 2 of 2: 1 slice is missing") as refused:
        segment_case(
            case_of(tmp_path, good, bad[:5] + bad[6:]),
            model=model_entry(channels=("T1", "T2")),
            engine=threshold_engine(),
            on_progress=ignore,
        )
    assert refused.value.code == "missing_slices"


class _Odd(ThresholdEngine):
    """Gives what an engine must not."""

    def __init__(self, change: Callable[[Labels], Labels]) -> None:
        super().__init__((LESION_VALUE, CORE_VALUE))
        self._change = change

    def segment(self, *args: object, **kwargs: object) -> Labels:  # type: ignore[override]
        return self._change(super().segment(*args, **kwargs))  # type: ignore[arg-type]


def test_label_that_nothing_describes_is_refused(tmp_path: Path) -> None:
    engine = _Odd(
        lambda labels: replace(labels, array=np.where(labels.array == 5, 9, 0).astype("u1"))
    )
    with pytest.raises(ModelInvalid, match=r"\[9\]") as refused:
        segment_case(
            case_of(tmp_path, write_series(tmp_path / "in")),
            model=model_entry(),
            engine=engine,
            on_progress=ignore,
        )
    assert refused.value.code == "label_without_code"


def test_labels_on_another_grid_are_refused(tmp_path: Path) -> None:
    engine = _Odd(lambda labels: replace(labels, array=labels.array[:-1]))
    with pytest.raises(WorkerError) as refused:
        segment_case(
            case_of(tmp_path, write_series(tmp_path / "in")),
            model=model_entry(),
            engine=engine,
            on_progress=ignore,
        )
    assert refused.value.code == "labels_on_other_grid"


def test_labels_of_another_type_are_refused(tmp_path: Path) -> None:
    engine = _Odd(lambda labels: replace(labels, array=labels.array.astype(np.int64)))
    with pytest.raises(WorkerError) as refused:
        segment_case(
            case_of(tmp_path, write_series(tmp_path / "in")),
            model=model_entry(),
            engine=engine,
            on_progress=ignore,
        )
    assert refused.value.code == "labels_of_other_type"


def test_progress_walks_through_the_stages_without_going_back(tmp_path: Path) -> None:
    seen: list[tuple[str, float]] = []
    segment_case(
        case_of(tmp_path, write_series(tmp_path / "in")),
        model=model_entry(),
        engine=threshold_engine(),
        on_progress=lambda stage, fraction: seen.append((stage, fraction)),
    )
    stages = ("loading", "inferring", "writing")
    ranks = [(stages.index(stage), fraction) for stage, fraction in seen]
    assert ranks == sorted(ranks)
    assert {stage for stage, _ in seen} == set(stages)
    assert seen[-1] == ("writing", 1.0)


def panel(picture: np.ndarray, index: int) -> np.ndarray:
    left = 12 + index * 372
    return picture[12 : 12 + 360, left : left + 360].astype(int)


def red_centre(pixels: np.ndarray) -> tuple[float, float]:
    """Give the centre (across, down) of what has the lesion's colour, of 0..1."""
    is_red = (pixels[..., 0] > 150) & (pixels[..., 2] < pixels[..., 0] - 60)
    down, across = np.nonzero(is_red)
    return float(across.mean()) / 360, float(down.mean()) / 360


@pytest.mark.parametrize("name", GRIDS)
def test_preview_shows_a_lesion_of_the_patients_right_front_top_there(
    tmp_path: Path, name: str
) -> None:
    """Radiological convention: right of the patient on the left, front up or left, top up."""
    grid = replace(GRIDS[name], shape=(20, 20, 20), spacing_mm=(2.0, 2.0, 2.0))
    array = np.full(grid.shape, 200, np.uint16)
    centre = grid.world(9.5, 9.5, 9.5)
    points = np.array([grid.world(*index) for index in np.ndindex(grid.shape)])
    away = points - np.add(centre, [-11.0, -11.0, 11.0])  # LPS: right, anterior, superior
    array[(np.abs(away).max(axis=1) < 5).reshape(grid.shape)] = LESION_VALUE
    files = write_series(tmp_path / "in", Phantom(grid=grid), array=array)
    segment_case(
        case_of(tmp_path, files), model=model_entry(), engine=threshold_engine(), on_progress=ignore
    )
    with Image.open(tmp_path / "out" / "preview.png") as image:
        picture = np.asarray(image.convert("RGB"))
    for index in range(3):  # axial: R and A; coronal: R and S; sagittal: A and S
        across, down = red_centre(panel(picture, index))
        assert across < 0.48  # an oblique grid turns the lesion towards the middle
        assert down < 0.48


def test_everything_one_must_know_of_a_model_stands_on_the_preview(tmp_path: Path) -> None:
    files = write_series(tmp_path / "in")
    heights = []
    for warnings in ((), ("short",), ("short", "a sentence that needs two lines " * 5)):
        segment_case(
            case_of(tmp_path, files),
            model=replace(model_entry(), warnings=warnings),
            engine=threshold_engine(),
            on_progress=ignore,
        )
        with Image.open(tmp_path / "out" / "preview.png") as picture:
            heights.append(picture.height)
    line = heights[1] - heights[0]
    assert line > 0
    assert heights[2] == heights[0] + 3 * line


def test_preview_draws_korean_labels_or_their_english_meaning(tmp_path: Path) -> None:
    files = write_series(tmp_path / "in")
    segment_case(
        case_of(tmp_path, files),
        model=model_entry(replace(LESION, label="병변"), CORE, intended_use="임상용 아님"),
        engine=threshold_engine(),
        on_progress=ignore,
    )
    with Image.open(tmp_path / "out" / "preview.png") as picture:
        assert picture.width == 1128
    seg = pydicom.dcmread(tmp_path / "out" / "mask.dcm")
    assert seg.SegmentSequence[0].SegmentLabel == "병변"
