"""Pseudonyms under this key or the one before, and originals only where the site allows them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from django_queue_app import served, storing
from django_queue_app.delivery import MaskUnreadable
from django_queue_app.pacs import get_pacs
from django_queue_app.privacy.pseudonymise import CannotPseudonymise
from tests.integration.pacs.test_delivery import PATIENT, Held, hold, mask
from tests.support import small_series
from tests.support.orthanc_server import is_installed, start
from tests.support.seg_files import encode, make_seg, read

pytestmark = pytest.mark.django_db

OLD, NEW = "the key before, of at least 32 characters", "the present key, of at least 32 characters"


@pytest.fixture
def held(tmp_path: Path) -> Held:
    return hold(tmp_path)


def originals(held: Held) -> list[bytes]:
    series = get_pacs().describe_series(held.request.main_series_id)
    return [get_pacs().read_instance(one.id) for one in series.instances]


def test_a_mask_over_originals_is_refused_unless_workers_may_fetch_them(
    held: Held, settings: Any
) -> None:
    seg = make_seg(originals(held), mask())
    artifacts = {"mask.dcm": held.deliver("mask.dcm", seg)}
    with pytest.raises(MaskUnreadable) as caught:
        held.complete(artifacts)
    assert (caught.value.code, caught.value.http_status) == ("identity_not_pseudonymised", 422)
    settings.SEGMENTATION_DIRECT_FETCH = True
    assert held.complete(artifacts) == "accepted"
    assert storing.store(held.request_id)
    stored = read(get_pacs().read_instance(held.request.seg_instance_id))
    assert stored.PatientID == PATIENT


def test_direct_fetch_accepts_no_other_patients_images(held: Held, settings: Any) -> None:
    settings.SEGMENTATION_DIRECT_FETCH = True
    foreign = read(make_seg(originals(held), mask()))
    foreign.ReferencedSeriesSequence[0].SeriesInstanceUID = "1.2.3.4.5.6"
    held.deliver("mask.dcm", encode(foreign))
    with pytest.raises(MaskUnreadable) as caught:
        held.complete({})
    assert caught.value.code == "foreign_reference"


def test_a_mask_takes_the_uid_of_no_input_for_its_own(held: Held) -> None:
    seg = read(make_seg(held.inputs, mask()))
    seg.SOPInstanceUID = read(originals(held)[0]).SOPInstanceUID
    seg.file_meta.MediaStorageSOPInstanceUID = seg.SOPInstanceUID
    held.deliver("mask.dcm", encode(seg))
    with pytest.raises(MaskUnreadable) as caught:
        held.complete({})
    assert caught.value.code == "foreign_reference"


def test_a_mask_under_the_key_before_is_taken_as_long_as_the_site_has_that_key(
    tmp_path: Path, settings: Any
) -> None:
    settings.SEGMENTATION_PSEUDONYM_KEY = OLD
    held = hold(tmp_path)
    artifacts = {"mask.dcm": held.deliver("mask.dcm", make_seg(held.inputs, mask()))}
    settings.SEGMENTATION_PSEUDONYM_KEY = NEW
    with pytest.raises(MaskUnreadable) as caught:
        held.complete(artifacts)
    assert caught.value.code == "foreign_reference"
    settings.SEGMENTATION_PSEUDONYM_KEY_PREVIOUS = OLD
    assert held.complete(artifacts) == "accepted"


def test_burned_in_text_leaves_only_where_a_setting_allows_it(settings: Any) -> None:
    data = small_series.mr_instance(
        0, StudyInstanceUID="1.2", SeriesInstanceUID="1.2.1", BurnedInAnnotation="YES"
    )
    with pytest.raises(CannotPseudonymise) as caught:
        served.serve(data)
    assert caught.value.code == "burned_in_annotation"
    settings.SEGMENTATION_ALLOW_BURNED_IN = True
    assert b"Phantom" not in served.serve(data).data


@pytest.mark.orthanc
@pytest.mark.django_db(transaction=True)  # a thread reads the series, and writes
@pytest.mark.parametrize("kind", ["orthanc", "dicomweb"])
def test_a_mask_waits_for_an_archive_that_is_away_and_is_stored_once(
    kind: str, tmp_path: Path, settings: Any
) -> None:
    if not is_installed():
        pytest.skip("needs Orthanc and its DICOMweb plugin (Debian: orthanc, orthanc-dicomweb)")
    server = start(tmp_path / "archive")
    try:
        for name, value in server.settings(kind).items():
            setattr(settings, name, value)
        held = hold(tmp_path)
        before = len(server.ids("instances"))
        held.complete({"mask.dcm": held.deliver("mask.dcm", make_seg(held.inputs, mask()))})
        server.stop()
        assert not storing.store(held.request_id)
        assert held.request.store_failure_code == "pacs_unavailable"
        assert not held.request.is_saved_to_pacs
        server = start(tmp_path / "archive", port=int(server.url.rpartition(":")[2]))
        assert storing.retry_all() == 1
        assert storing.retry_all() == 0
        assert held.request.is_saved_to_pacs
        assert len(server.ids("instances")) == before + 1
        assert held.request.seg_instance_id in server.ids("instances")
    finally:
        server.stop()
