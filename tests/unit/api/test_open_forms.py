"""Other spellings of one meaning, which workers of other people may write."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from django_queue_app.api.headers import sha256_from
from django_queue_app.api.open_forms import digests_by_name, names_of, result_and_artifacts

HEX = bytes(range(32)).hex()
B64 = base64.b64encode(bytes(range(32))).decode()


@pytest.mark.parametrize(
    "written",
    [
        {"mask.dcm": HEX},
        {"mask.dcm": HEX.upper()},
        {"mask.dcm": f"sha256:{HEX}"},
        {"mask.dcm": f"sha-256=:{B64}:"},
        {"mask.dcm": {"sha256": HEX, "bytes": 7}},
        [{"name": "mask.dcm", "sha256": HEX}],
        [{"name": "mask.dcm", "digest": f"sha-256=:{B64}:"}],
    ],
)
def test_digests_are_understood_however_they_are_written(written: Any) -> None:
    assert digests_by_name(written) == {"mask.dcm": HEX}


@pytest.mark.parametrize(
    "written",
    [None, 7, "x", [7], [{"sha256": HEX}], [{"name": [], "sha256": HEX}], [{"name": "a"}] * 2],
)
def test_what_names_no_digests_is_left_for_the_schema_to_refuse(written: Any) -> None:
    assert digests_by_name(written) == written


def test_a_digest_that_is_none_is_left_for_the_schema_to_refuse() -> None:
    written = {"a": 7, "b": None, "c": {}, "d": "sha-256=x"}
    assert digests_by_name(written) == {"a": 7, "b": None, "c": None, "d": "sha-256=x"}


@pytest.mark.parametrize(
    "value", [f":{B64}:", f" :{B64}: ", f":{B64}:;a=1", f":{B64.rstrip('=')}:"]
)
def test_a_byte_sequence_is_read_as_its_rfc_wants(value: str) -> None:
    assert sha256_from(value) == HEX


@pytest.mark.parametrize("value", ["", ":", "::", B64, HEX, f":{B64}", f":{B64[:-4]}:", f":{HEX}:"])
def test_what_is_no_sha256_is_none(value: str) -> None:
    assert sha256_from(value) is None


def test_models_are_named_or_described() -> None:
    assert names_of(["demo", {"name": "brats", "version": "1"}]) == ["demo", "brats"]
    assert names_of(None) == []
    assert names_of("demo") == "demo"


def test_a_result_may_stand_beside_success() -> None:
    files = {"mask.dcm": HEX}
    flat = {"success": True, "tumor_detected": False, "digests": files}
    found = result_and_artifacts(flat)
    assert (found["result"], found["artifacts"]) == (flat, files)


def test_an_existing_workers_report_stays_as_it_is() -> None:
    report = {"success": True, "seg_instance_id": "x", "tumor_detected": True}
    assert result_and_artifacts(report) == {**report, "artifacts": None}
    assert result_and_artifacts([]) == []
