import subprocess
import warnings
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import RLELossless

from tests.support.dicom_phantoms import (
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
from tests.support.imaging_models import CORE, LESION
from worker.adapters.dicom_read import OpenedSeries, open_series
from worker.adapters.dicom_seg import MaskRequest, write_dicom_seg
from worker.adapters.dicom_seg_check import MaskMisplaced, check_dicom_seg
from worker.core.errors import ModelInvalid
from worker.core.job import ModelIdentity
from worker.core.segments import Labels

MODEL = ModelIdentity(name="phantom_model", version="1.2.3", sha256="0123456789abcdef" * 4)
SPECS = (LESION, CORE)  # label values 2 and 5: segments 1 and 2
NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
SECRETS = ("Secret Hospital", "SECRETSTATION", "SECRETSERIAL", "Secret comment")


def labels_of(grid: Grid) -> Labels:
    return Labels(array=np.array([0, 2, 5], np.uint8)[lesion(grid)], values=(2, 5))


def overlapping(grid: Grid) -> Labels:
    truth = lesion(grid)
    masks = np.stack([truth >= 1, truth >= 2]).astype(np.uint8)
    return Labels(array=masks, values=(2, 5), is_overlapping=True)


def empty(grid: Grid) -> Labels:
    return Labels(array=np.zeros(grid.shape, np.uint8), values=(2, 5))


def write(
    path: Path,
    main: OpenedSeries,
    labels: Labels,
    *,
    others: tuple[OpenedSeries, ...] = (),
    request_id: str = "r1",
    seg_type: str = "binary",
) -> Path:
    request = MaskRequest(
        request_id=request_id,
        labels=labels,
        specs=SPECS,
        main=main,
        others=others,
        model=MODEL,
        intended_use="Not for clinical use",
        seg_type=seg_type,
    )
    write_dicom_seg(request, path, now=NOW)
    return path


def world_points(seg: hd.seg.Segmentation, number: int) -> np.ndarray:
    """Give the LPS points of a segment's voxels, as highdicom places them: (N, 3), sorted."""
    volume = seg.get_volume(segment_numbers=[number], allow_missing_positions=True)
    indices = np.argwhere(volume.array[..., 0] > 0)
    return sorted_points(volume.map_indices_to_reference(indices))


def true_points(grid: Grid, mask: np.ndarray) -> np.ndarray:
    return sorted_points(np.array([grid.world(*index) for index in np.argwhere(mask)]))


def sorted_points(points: np.ndarray) -> np.ndarray:
    return points[np.lexsort(np.round(points, 3).T)]


def segread(path: Path) -> hd.seg.Segmentation:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return hd.seg.segread(path)


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("order", ["ascending", "reversed", "shuffled"])
@pytest.mark.parametrize("kind", ["classic", "enhanced"])
def test_mask_lies_where_the_lesion_is(tmp_path: Path, name: str, order: str, kind: str) -> None:
    grid = GRIDS[name]
    phantom = Phantom(grid=grid, order=order)
    files = (
        write_series(tmp_path / "in", phantom)
        if kind == "classic"
        else write_enhanced(tmp_path / "in.dcm", phantom)
    )
    main = open_series(files)
    path = write(tmp_path / "mask.dcm", main, labels_of(grid))
    check_dicom_seg(path, labels_of(grid), SPECS, main.geometry)
    seg = segread(path)
    for number, value in ((1, 1), (2, 2)):
        expected = true_points(grid, lesion(grid) == value)
        np.testing.assert_allclose(world_points(seg, number), expected, atol=1e-3)


@pytest.mark.parametrize("kind", ["classic", "enhanced"])
@pytest.mark.parametrize("fill", ["full", "empty"])
def test_label_map_holds_the_same_voxels(tmp_path: Path, kind: str, fill: str) -> None:
    phantom = Phantom(grid=OBLIQUE, order="shuffled")
    files = (
        write_series(tmp_path / "in", phantom)
        if kind == "classic"
        else write_enhanced(tmp_path / "in.dcm", phantom)
    )
    main = open_series(files)
    labels = labels_of(OBLIQUE) if fill == "full" else empty(OBLIQUE)
    path = write(tmp_path / "mask.dcm", main, labels, seg_type="labelmap")
    check_dicom_seg(path, labels, SPECS, main.geometry)
    seg = segread(path)
    assert seg.SOPClassUID == "1.2.840.10008.5.1.4.1.1.66.7"
    assert seg.file_meta.TransferSyntaxUID == RLELossless
    if fill == "full":
        volume = seg.get_volume(allow_missing_positions=True, combine_segments=True)
        for number in (1, 2):
            points = volume.map_indices_to_reference(np.argwhere(volume.array == number))
            expected = true_points(OBLIQUE, lesion(OBLIQUE) == number)
            np.testing.assert_allclose(sorted_points(points), expected, atol=1e-3)


def test_label_map_of_overlapping_segments_is_refused(tmp_path: Path) -> None:
    main = open_series(write_series(tmp_path / "in", Phantom(grid=OBLIQUE)))
    with pytest.raises(ModelInvalid, match="set its seg_type to binary") as refused:
        write(tmp_path / "mask.dcm", main, overlapping(OBLIQUE), seg_type="labelmap")
    assert refused.value.code == "labels_overlap"


def test_misplaced_label_map_is_found_out(tmp_path: Path) -> None:
    main = open_series(write_series(tmp_path / "in", Phantom(grid=OBLIQUE)))
    labels = labels_of(OBLIQUE)
    wrong = replace(labels, array=np.roll(labels.array, 1, axis=2))
    path = write(tmp_path / "mask.dcm", main, wrong, seg_type="labelmap")
    with pytest.raises(MaskMisplaced):
        check_dicom_seg(path, labels, SPECS, main.geometry)


@pytest.mark.parametrize("kind", ["classic", "enhanced"])
def test_each_frame_refers_to_the_slice_that_it_lies_on(tmp_path: Path, kind: str) -> None:
    phantom = Phantom(grid=OBLIQUE, order="shuffled")
    files = (
        write_series(tmp_path / "in", phantom)
        if kind == "classic"
        else write_enhanced(tmp_path / "in.dcm", phantom)
    )
    main = open_series(files)
    seg = pydicom.dcmread(write(tmp_path / "mask.dcm", main, labels_of(OBLIQUE)))
    for group in seg.PerFrameFunctionalGroupsSequence:
        position = np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)
        k = round(float((position - OBLIQUE.origin_mm) @ OBLIQUE.normal / OBLIQUE.spacing_mm[2]))
        source = group.DerivationImageSequence[0].SourceImageSequence[0]
        assert source.ReferencedSOPInstanceUID == main.sources[k].sop_instance_uid
        assert source.get("ReferencedFrameNumber") == main.sources[k].frame_number


def test_series_of_two_enhanced_instances_is_one_volume(tmp_path: Path) -> None:
    """Some scanners split a long series into several multi-frame instances."""
    files: list[Path] = []
    for part, (first, last) in enumerate(((0, 7), (7, 14))):
        grid = replace(
            OBLIQUE,
            shape=(22, 18, last - first),
            origin_mm=tuple(OBLIQUE.world(0, 0, first).tolist()),
        )

        def rename(dataset: Dataset, part: int = part) -> None:
            dataset.SOPInstanceUID = uid(f"part {part}")
            dataset.file_meta.MediaStorageSOPInstanceUID = uid(f"part {part}")

        files += write_enhanced(
            tmp_path / f"{part}.dcm",
            Phantom(grid=grid),
            array=paint(OBLIQUE)[:, :, first:last],
            edit=rename,
        )
    main = open_series(files[::-1])
    path = write(tmp_path / "mask.dcm", main, labels_of(OBLIQUE))
    check_dicom_seg(path, labels_of(OBLIQUE), SPECS, main.geometry)
    expected = true_points(OBLIQUE, lesion(OBLIQUE) == 1)
    np.testing.assert_allclose(world_points(segread(path), 1), expected, atol=1e-3)
    references = pydicom.dcmread(path).ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert {item.ReferencedSOPInstanceUID for item in references} == {uid("part 0"), uid("part 1")}


def test_overlapping_segments_are_kept_whole(tmp_path: Path) -> None:
    main = open_series(write_series(tmp_path / "in", Phantom(grid=OBLIQUE)))
    path = write(tmp_path / "mask.dcm", main, overlapping(OBLIQUE))
    check_dicom_seg(path, overlapping(OBLIQUE), SPECS, main.geometry)
    seg = segread(path)
    assert seg.SegmentsOverlap == "YES"
    expected = true_points(OBLIQUE, lesion(OBLIQUE) >= 1)
    np.testing.assert_allclose(world_points(seg, 1), expected, atol=1e-3)


@pytest.mark.parametrize("kind", ["classic", "enhanced"])
def test_empty_mask_is_one_empty_frame_for_each_segment(tmp_path: Path, kind: str) -> None:
    phantom = Phantom(grid=OBLIQUE)
    files = (
        write_series(tmp_path / "in", phantom)
        if kind == "classic"
        else write_enhanced(tmp_path / "in.dcm", phantom)
    )
    main = open_series(files)
    path = write(tmp_path / "mask.dcm", main, empty(OBLIQUE))
    check_dicom_seg(path, empty(OBLIQUE), SPECS, main.geometry)
    seg = pydicom.dcmread(path)
    assert len(seg.SegmentSequence) == 2
    assert seg.NumberOfFrames == 2
    assert not any(seg.PixelData)
    references = seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert len(references) == len(files)


def test_segment_without_voxels_is_still_described(tmp_path: Path) -> None:
    main = open_series(write_series(tmp_path / "in", Phantom(grid=OBLIQUE)))
    only_core = Labels(array=np.where(lesion(OBLIQUE) == 2, 5, 0).astype(np.uint8), values=(2, 5))
    seg = segread(write(tmp_path / "mask.dcm", main, only_core))
    assert [item.SegmentLabel for item in seg.SegmentSequence] == ["Lesion", "Core"]
    assert seg.segment_numbers == [1, 2]
    assert {
        group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        for group in seg.PerFrameFunctionalGroupsSequence
    } == {2}


def test_segments_are_coded_and_the_algorithm_is_named(tmp_path: Path) -> None:
    main = open_series(write_series(tmp_path / "in"))
    seg = segread(write(tmp_path / "mask.dcm", main, labels_of(main_grid())))
    first = seg.SegmentSequence[0]
    assert first.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "49755003"
    type_code = first.SegmentedPropertyTypeCodeSequence[0]
    assert type_code.CodeValue == "108369006"
    modifier = type_code.SegmentedPropertyTypeModifierCodeSequence[0]
    assert modifier.CodeValue == "86049000"
    assert first.AnatomicRegionSequence[0].CodeValue == "12738006"
    assert first.SegmentAlgorithmType == "AUTOMATIC"
    algorithm = first.SegmentationAlgorithmIdentificationSequence[0]
    assert algorithm.AlgorithmName == "phantom_model"
    assert algorithm.AlgorithmVersion == "1.2.3"
    assert MODEL.sha256 in algorithm.AlgorithmParameters
    assert first.TrackingID == "Lesion 1"
    red, green, blue = hd.color.CIELabColor.from_dicom_value(
        first.RecommendedDisplayCIELabValue
    ).to_rgb()
    np.testing.assert_allclose((red, green, blue), (255, 80, 40), atol=2)


def main_grid() -> Grid:
    return Phantom().grid


def all_uids(path: Path) -> list[str]:
    seg = pydicom.dcmread(path)
    return [str(element.value) for element in seg.iterall() if element.VR == "UI"]


def test_same_request_model_and_inputs_give_the_same_uids(tmp_path: Path) -> None:
    files = write_series(tmp_path / "in")
    labels = labels_of(main_grid())
    first = write(tmp_path / "a.dcm", open_series(files), labels)
    again = write(tmp_path / "b.dcm", open_series(files[::-1]), labels)
    assert all_uids(first) == all_uids(again)


def test_another_request_or_input_gives_another_uid(tmp_path: Path) -> None:
    main = open_series(write_series(tmp_path / "in"))
    other = open_series(write_series(tmp_path / "other", Phantom(series="other")))
    labels = labels_of(main_grid())
    paths = [
        write(tmp_path / "a.dcm", main, labels),
        write(tmp_path / "b.dcm", main, labels, request_id="r2"),
        write(tmp_path / "c.dcm", main, labels, others=(other,)),
        write(tmp_path / "d.dcm", other, labels),
    ]
    assert len({pydicom.dcmread(path).SOPInstanceUID for path in paths}) == 4


def test_series_that_reuses_its_uids_for_other_pixels_gives_another_uid(tmp_path: Path) -> None:
    first = open_series(write_series(tmp_path / "a"))
    second = open_series(write_series(tmp_path / "b", array=paint(main_grid()) + np.uint16(1)))
    labels = labels_of(main_grid())
    paths = [write(tmp_path / "a.dcm", first, labels), write(tmp_path / "b.dcm", second, labels)]
    assert len({pydicom.dcmread(path).SOPInstanceUID for path in paths}) == 2


def test_all_instances_of_all_series_are_referenced(tmp_path: Path) -> None:
    main = open_series(write_series(tmp_path / "in"))
    tilted = Phantom(grid=rotated(main_grid(), x=20), series="other")
    other = open_series(write_series(tmp_path / "other", tilted))
    seg = pydicom.dcmread(write(tmp_path / "m.dcm", main, labels_of(main_grid()), others=(other,)))
    referenced = {
        item.SeriesInstanceUID: len(item.ReferencedInstanceSequence)
        for item in seg.ReferencedSeriesSequence
    }
    assert referenced == {uid("main"): 14, uid("other"): 14}


def test_nothing_of_the_hospital_is_copied(tmp_path: Path) -> None:
    main = open_series(write_series(tmp_path / "in"))
    path = write(tmp_path / "mask.dcm", main, labels_of(main_grid()))
    text = path.read_bytes().decode("latin-1")
    for secret in SECRETS:
        assert secret not in text


def test_patient_and_study_are_those_of_the_source(tmp_path: Path) -> None:
    main = open_series(write_series(tmp_path / "in"))
    seg = pydicom.dcmread(write(tmp_path / "mask.dcm", main, labels_of(main_grid())))
    assert seg.PatientID == "PHANTOM-1"
    assert seg.PatientName == "Phantom^Asymmetric"
    assert seg.StudyInstanceUID == uid("study")
    assert seg.FrameOfReferenceUID == main_grid().frame_of_reference_uid
    assert seg.ContentCreatorName == "mri-worker^AI"
    assert seg.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
    assert seg.ContentDate == "20260302"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda array: np.roll(array, 1, axis=2),
        lambda array: array[::-1],
        lambda array: array[:, ::-1],
        lambda array: array[:, :, ::-1],
        lambda array: np.where(array == 5, 2, array),
        lambda array: np.zeros_like(array),
    ],
)
def test_misplaced_mask_is_found_out(tmp_path: Path, spoil: object) -> None:
    main = open_series(write_series(tmp_path / "in", Phantom(grid=OBLIQUE)))
    labels = labels_of(OBLIQUE)
    wrong = replace(labels, array=spoil(labels.array).astype(np.uint8))  # type: ignore[operator]
    path = write(tmp_path / "mask.dcm", main, wrong)
    with pytest.raises(MaskMisplaced):
        check_dicom_seg(path, labels, SPECS, main.geometry)


@pytest.mark.parametrize(
    ("keyword", "shift"),
    [("ImagePositionPatient", [0.0, 0.0, 2.0]), ("ImageOrientationPatient", None)],
)
def test_misplaced_frame_is_found_out(
    tmp_path: Path, keyword: str, shift: list[float] | None
) -> None:
    main = open_series(write_series(tmp_path / "in", Phantom(grid=OBLIQUE)))
    labels = labels_of(OBLIQUE)
    path = write(tmp_path / "mask.dcm", main, labels)
    seg = pydicom.dcmread(path)
    if shift is not None:
        position = seg.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0]
        position.ImagePositionPatient = (
            np.add(position.ImagePositionPatient, shift).round(6).tolist()
        )
    else:
        orientation = seg.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
        row, column = (
            orientation.ImageOrientationPatient[:3],
            orientation.ImageOrientationPatient[3:],
        )
        orientation.ImageOrientationPatient = [*column, *row]
    seg.save_as(path)
    with pytest.raises(MaskMisplaced):
        check_dicom_seg(path, labels, SPECS, main.geometry)


BARE = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "SliceThickness",
    "PositionReferenceIndicator",
)


def bare(_: int, dataset: Dataset) -> None:
    for keyword in BARE:
        del dataset[keyword]


ODD = {
    b"19700101": b"unknown ",
    b"20260301": b"1.3.2026",
    b"PHANTOM-1 ": b"A\\B\\C\\D\\E ",
}


def make_odd(files: Iterable[Path]) -> None:
    """Put in what vendors and anonymisers write, and no mask may repeat."""
    for path in files:
        data = path.read_bytes()
        for value, odd in ODD.items():
            assert value in data
            data = data.replace(value, odd)
        path.write_bytes(data)


def korean(_: int, dataset: Dataset) -> None:
    dataset.SpecificCharacterSet = ["", "ISO 2022 IR 149"]
    dataset.PatientName = "Hong^Gildong=洪^吉洞=홍^길동"


def validate(path: Path) -> list[str]:
    run = subprocess.run(
        ["dciodvfy", str(path)], capture_output=True, text=True, check=False, encoding="utf-8"
    )
    lines = (run.stdout + run.stderr).splitlines()
    return [line for line in lines if line.startswith("Error")]


@pytest.mark.dicom_validators
@pytest.mark.parametrize(
    "source",
    ["plain", "bare", "odd", "korean", "enhanced", "two series", "empty", "overlapping"],
)
def test_dciodvfy_finds_no_error(tmp_path: Path, source: str) -> None:
    edits = {"bare": bare, "korean": korean}
    phantom = Phantom(grid=OBLIQUE)
    if source == "enhanced":
        main = open_series(write_enhanced(tmp_path / "in.dcm", phantom))
    else:
        files = write_series(tmp_path / "in", phantom, edit=edits.get(source))
        if source == "odd":
            make_odd(files)
        main = open_series(files)
    others = (
        (open_series(write_series(tmp_path / "other", replace(phantom, series="other"))),)
        if source == "two series"
        else ()
    )
    kinds = {"empty": empty, "overlapping": overlapping}
    labels = kinds.get(source, labels_of)(OBLIQUE)
    path = write(tmp_path / "mask.dcm", main, labels, others=others)
    assert validate(path) == []


def test_korean_name_survives(tmp_path: Path) -> None:
    main = open_series(write_series(tmp_path / "in", edit=korean))
    seg = pydicom.dcmread(write(tmp_path / "mask.dcm", main, labels_of(main_grid())))
    assert str(seg.PatientName) == "Hong^Gildong=洪^吉洞=홍^길동"


def test_orientation_rounded_to_four_decimals_still_gives_a_mask(tmp_path: Path) -> None:
    def rounded(_: int, dataset: Dataset) -> None:
        dataset.ImageOrientationPatient = [
            round(float(value), 4) for value in dataset.ImageOrientationPatient
        ]

    main = open_series(write_series(tmp_path / "in", Phantom(grid=OBLIQUE), edit=rounded))
    path = write(tmp_path / "mask.dcm", main, labels_of(OBLIQUE))
    check_dicom_seg(path, labels_of(OBLIQUE), SPECS, main.geometry)
    expected = true_points(OBLIQUE, lesion(OBLIQUE) == 1)
    np.testing.assert_allclose(world_points(segread(path), 1), expected, atol=0.02)


def test_header_values_never_reach_a_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = write_series(tmp_path / "in")
    make_odd(files)
    write(tmp_path / "mask.dcm", open_series(files), labels_of(main_grid()))
    assert caplog.text == ""
