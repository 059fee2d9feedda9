"""What every archive behind the port must do; each adapter's test class inherits this one."""

from __future__ import annotations

import random

import numpy as np
import pytest

from django_queue_app.pacs.port import (
    InstanceNotFound,
    InvalidInstance,
    Pacs,
    SeriesNotFound,
)
from tests.support import small_series
from tests.support.seg_files import encode, make_seg, read

UNKNOWN = "-".join(["01234567"] * 5)


class PacsContract:
    """Needs a fixture `pacs` that gives an empty archive."""

    def test_an_empty_archive_lists_nothing(self, pacs: Pacs) -> None:
        assert list(pacs.list_series()) == []

    def test_what_was_stored_is_read_back_byte_by_byte(self, pacs: Pacs) -> None:
        (first, *_) = small_series.mr_series()
        stored = pacs.store_instance(first)
        assert stored.is_new
        assert pacs.read_instance(stored.instance_id) == first
        assert pacs.series_of_instance(stored.instance_id) == stored.series_id

    def test_the_same_bytes_again_change_nothing(self, pacs: Pacs) -> None:
        (first, *_) = small_series.mr_series()
        earlier, again = pacs.store_instance(first), pacs.store_instance(first)
        assert again.instance_id == earlier.instance_id
        assert (again.is_new, again.is_conflicting) == (False, False)
        assert len(pacs.describe_series(earlier.series_id).instances) == 1

    def test_other_content_under_the_same_uid_is_told_and_the_first_kept(self, pacs: Pacs) -> None:
        (first, *_) = small_series.mr_series()
        stored = pacs.store_instance(first)
        changed = read(first)
        changed.SeriesDescription = "changed"
        second = pacs.store_instance(encode(changed))
        assert (second.is_new, second.is_conflicting) == (False, True)
        assert pacs.read_instance(stored.instance_id) == first

    def test_slices_are_ordered_along_the_normal_whatever_their_numbers(self, pacs: Pacs) -> None:
        files = small_series.mr_series()
        datasets = [read(data) for data in files]
        for number, dataset in zip((2, 3, 1), datasets, strict=True):
            dataset.InstanceNumber = number
        shuffled = [encode(dataset) for dataset in datasets]
        random.Random(3).shuffle(shuffled)
        series_id = _store(pacs, shuffled)
        found = [one.sop_uid for one in pacs.describe_series(series_id).instances]
        assert found == [dataset.SOPInstanceUID for dataset in datasets]

    def test_a_series_is_described_by_its_header(self, pacs: Pacs) -> None:
        files = small_series.mr_series(description="T2 FLAIR ax")
        series_id = _store(pacs, files)
        (summary,) = pacs.list_series()
        assert summary == pacs.describe_series(series_id).summary
        assert summary.id == series_id
        assert summary.series_uid == read(files[0]).SeriesInstanceUID
        assert (summary.modality, summary.slices) == ("MR", 3)
        assert summary.sequence_type == "FLAIR"
        assert 0 < summary.sequence_confidence <= 1
        first = pacs.describe_series(series_id).instances[0]
        assert (first.rows, first.columns, first.frames) == (12, 16, 1)
        assert first.position == (-8.0, -6.0, 10.0)
        assert first.frame_of_reference_uid == read(files[0]).FrameOfReferenceUID

    def test_ids_are_orthancs(self, pacs: Pacs) -> None:
        # Computed with sha1sum over the joined values, and given by a real Orthanc 1.10.1.
        data = small_series.mr_instance(
            0,
            PatientID="ABC",
            StudyInstanceUID="1.2.3.1",
            SeriesInstanceUID="1.2.3.1.1",
            SOPInstanceUID="1.2.3.1.1.1",
        )
        stored = pacs.store_instance(data)
        assert stored.instance_id == "4ac5cb4f-37bdfb80-7cf113f0-918c0ba0-bc9f8ca2"
        assert stored.series_id == "ea28265c-9a69d995-a4468ec1-e534f968-161491d9"

    def test_a_series_is_found_by_its_uid(self, pacs: Pacs) -> None:
        files = small_series.mr_series()
        series_id = _store(pacs, files)
        assert pacs.find_series(str(read(files[0]).SeriesInstanceUID)) == series_id
        assert pacs.find_series("1.2.3.4.5") is None

    @pytest.mark.parametrize("unknown", [UNKNOWN, "", "nonsense", "\0", "x" * 5000])
    def test_unknown_ids_are_not_found(self, pacs: Pacs, unknown: str) -> None:
        with pytest.raises(SeriesNotFound):
            pacs.describe_series(unknown)
        with pytest.raises(InstanceNotFound):
            pacs.read_instance(unknown)
        with pytest.raises(InstanceNotFound):
            pacs.series_of_instance(unknown)

    @pytest.mark.parametrize("data", [b"", b"nonsense", bytes(128) + b"DICM", bytes(1000)])
    def test_what_is_no_dicom_is_refused(self, pacs: Pacs, data: bytes) -> None:
        with pytest.raises(InvalidInstance):
            pacs.store_instance(data)

    def test_a_described_series_is_read_as_a_whole(self, pacs: Pacs) -> None:
        files = small_series.mr_series()
        series = pacs.describe_series(_store(pacs, files))
        found = dict(pacs.read_series(series))
        assert set(found) == {one.id for one in series.instances}
        assert sorted(found.values()) == sorted(files)

    def test_a_mask_is_stored_once_and_found_again(self, pacs: Pacs) -> None:
        files = small_series.mr_series()
        _store(pacs, files)
        seg = make_seg(files, np.ones((small_series.SLICES, 12, 16), np.uint8))
        stored, again = pacs.store_instance(seg), pacs.store_instance(seg)
        assert (stored.is_new, again.is_new, again.is_conflicting) == (True, False, False)
        assert stored.instance_id == again.instance_id
        series = pacs.describe_series(stored.series_id)
        assert [one.id for one in series.instances] == [stored.instance_id]
        assert (series.summary.modality, series.summary.slices) == ("SEG", small_series.SLICES)
        assert pacs.find_series(series.summary.series_uid) == stored.series_id
        assert read(pacs.read_instance(stored.instance_id)) == read(seg)

    def test_a_patient_of_another_alphabet_keeps_name_and_ids(self, pacs: Pacs) -> None:
        data = small_series.mr_instance(
            0,
            SpecificCharacterSet="ISO_IR 192",
            PatientName="홍^길동",
            PatientID="환자-7",
            StudyInstanceUID="1.2.3.7",
            SeriesInstanceUID="1.2.3.7.1",
        )
        stored = pacs.store_instance(data)
        (summary,) = pacs.list_series()
        assert (summary.patient_name, summary.patient_dicom_id) == ("홍^길동", "환자-7")
        assert summary.id == stored.series_id
        assert pacs.series_of_instance(stored.instance_id) == stored.series_id

    def test_a_series_that_grows_is_described_anew(self, pacs: Pacs) -> None:
        *files, last = small_series.mr_series()
        series_id = _store(pacs, files)
        assert len(pacs.describe_series(series_id).instances) == len(files)
        pacs.store_instance(last)
        assert len(pacs.describe_series(series_id).instances) == len(files) + 1

    def test_it_says_that_it_can_be_used(self, pacs: Pacs) -> None:
        pacs.check()


def _store(pacs: Pacs, files: list[bytes]) -> str:
    return [pacs.store_instance(data).series_id for data in files][-1]
