from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from tests.support.dicom_phantoms import AXIAL, GRIDS, OBLIQUE, Grid, lesion, rotated
from worker.adapters.nifti import flatten, write_nifti
from worker.adapters.resample import check_comparable, resample_image, resample_labels
from worker.core.errors import SeriesInvalid
from worker.core.geometry import Geometry, SourceInstance, Volume
from worker.core.segments import Labels


def geometry(grid: Grid) -> Geometry:
    return Geometry.from_axes(
        shape=grid.shape,
        origin_mm=np.array(grid.origin_mm),
        directions=np.stack([grid.row, grid.column, grid.normal], axis=1),
        spacing_mm=np.array(grid.spacing_mm),
        frame_of_reference_uid=grid.frame_of_reference_uid,
    )


def ramp(grid: Grid) -> Volume:
    """A picture whose value is a linear function of the world point: linear sampling is exact."""
    made = geometry(grid)
    indices = np.stack(np.indices(grid.shape), axis=-1)
    values = made.to_lps(indices) @ [1.0, 10.0, 100.0]
    source = SourceInstance(sop_class_uid="1", sop_instance_uid="1")
    return Volume(array=values.astype(np.float32), geometry=made, sources=(source,) * grid.shape[2])


@pytest.mark.parametrize("target", [rotated(AXIAL, x=12, z=-7), GRIDS["sagittal"]])
def test_image_keeps_its_place_in_the_world(target: Grid) -> None:
    source = replace(AXIAL, shape=(60, 60, 40), origin_mm=(-70.0, -20.0, 20.0))
    inner = replace(target, shape=(6, 7, 5), origin_mm=(-45.0, 10.0, 70.0), spacing_mm=(1, 1, 2))
    found = resample_image(ramp(source), geometry(inner))
    assert found.shape == inner.shape
    np.testing.assert_allclose(found, ramp(inner).array, rtol=1e-4)


def test_image_is_zero_outside_its_source() -> None:
    found = resample_image(ramp(AXIAL), geometry(replace(AXIAL, shape=(40, 18, 14))))
    assert not found[30:].any()
    np.testing.assert_allclose(found[:22], ramp(AXIAL).array, rtol=1e-5)


def test_image_is_written_where_it_was_asked_for() -> None:
    out = np.empty(AXIAL.shape, np.float32)
    assert resample_image(ramp(AXIAL), geometry(AXIAL), out=out) is out


def test_labels_keep_their_values_and_their_place() -> None:
    fine = replace(OBLIQUE, shape=(44, 36, 28), spacing_mm=(0.45, 0.65, 1.25))
    coarse = resample_labels(
        resample_labels(lesion(OBLIQUE), geometry(OBLIQUE), geometry(fine)),
        geometry(fine),
        geometry(OBLIQUE),
    )
    np.testing.assert_array_equal(coarse, lesion(OBLIQUE))
    assert coarse.dtype == np.uint8


def test_other_frame_of_reference_is_refused() -> None:
    other = replace(AXIAL, frame_of_reference_uid="1.2.3")
    with pytest.raises(SeriesInvalid, match=r"^Series 2 \(T1\)") as refused:
        check_comparable(geometry(other), geometry(AXIAL), name="Series 2 (T1)")
    assert refused.value.code == "frame_of_reference_mismatch"


def test_grids_that_do_not_meet_are_refused() -> None:
    other = replace(OBLIQUE, origin_mm=(400.0, 0.0, 0.0))
    with pytest.raises(SeriesInvalid) as refused:
        check_comparable(geometry(other), geometry(AXIAL), name="Series 2 (T1)")
    assert refused.value.code == "no_overlap"


@pytest.mark.parametrize("name", GRIDS)
def test_nifti_lies_where_the_lesion_is_for_nibabel_and_itk(tmp_path: Path, name: str) -> None:
    grid = GRIDS[name]
    labels = Labels(array=lesion(grid), values=(1, 2))
    path = tmp_path / "mask.nii.gz"
    write_nifti(labels, geometry(grid), path)
    expected = np.array([grid.world(*index) for index in np.argwhere(lesion(grid) == 2)])

    image = nib.load(path)
    indices = np.argwhere(np.asarray(image.dataobj) == 2)
    ras = nib.affines.apply_affine(image.affine, indices)
    np.testing.assert_allclose(ras * [-1, -1, 1], expected, atol=1e-4)

    itk = sitk.ReadImage(str(path))
    lps = [itk.TransformIndexToPhysicalPoint(index) for index in indices.tolist()]
    np.testing.assert_allclose(lps, expected, atol=1e-3)


def test_nifti_header_is_consistent_and_says_nothing_of_the_patient(tmp_path: Path) -> None:
    path = tmp_path / "mask.nii.gz"
    write_nifti(Labels(array=lesion(OBLIQUE), values=(1, 2)), geometry(OBLIQUE), path)
    image = nib.load(path)
    sform, sform_code = image.header.get_sform(coded=True)
    qform, qform_code = image.header.get_qform(coded=True)
    assert (int(sform_code), int(qform_code)) == (1, 1)
    np.testing.assert_allclose(sform, qform, atol=1e-4)
    assert image.header.get_data_dtype() == np.uint8
    assert image.header.get_xyzt_units()[0] == "mm"
    assert image.header.get_intent()[0] == "label"
    assert image.header["descrip"].tobytes().rstrip(b"\0") == b"segmentation label map"


def test_same_labels_give_the_same_bytes(tmp_path: Path) -> None:
    labels = Labels(array=lesion(OBLIQUE), values=(1, 2))
    for name in ("a.nii.gz", "b.nii.gz"):
        write_nifti(labels, geometry(OBLIQUE), tmp_path / name)
    a, b = ((tmp_path / name).read_bytes() for name in ("a.nii.gz", "b.nii.gz"))
    assert a[10:] == b[10:]  # behind gzip's own header, which holds the file's name


def test_large_label_values_are_kept() -> None:
    array = np.array([[[0, 1024]]], dtype=np.uint16)
    assert flatten(Labels(array=array, values=(1024,))).dtype == np.uint16


def test_smaller_of_two_overlapping_segments_stays_visible() -> None:
    truth = lesion(OBLIQUE)
    masks = np.stack([truth >= 2, truth >= 1]).astype(np.uint8)
    flat = flatten(Labels(array=masks, values=(5, 2), is_overlapping=True))
    np.testing.assert_array_equal(flat, np.array([0, 2, 5])[truth])
