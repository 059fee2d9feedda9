from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from django_queue_app.checks import check_settings


def found(settings: Any, **changes: Any) -> set[str]:
    settings.SEGMENTATION_PACS = "orthanc"
    for name, value in changes.items():
        setattr(settings, f"SEGMENTATION_{name}", value)
    return {str(one.id).rpartition(".")[2] for one in check_settings(None)}


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("", "E010"),
        ("ftp://pacs", "E010"),
        ("http://user:secret@pacs", "E010"),
        ("http://pacs.example:8042", "W010"),
    ],
)
def test_an_address_that_should_not_be_used_is_told(settings: Any, url: str, expected: str) -> None:
    assert expected in found(settings, PACS_URL=url)


@pytest.mark.parametrize("url", ["http://127.0.0.1:8042", "https://pacs.example"])
def test_a_good_address_is_not(settings: Any, url: str) -> None:
    assert not {"E010", "E011", "W010", "W011"} & found(settings, PACS_URL=url)


def test_a_certificate_that_is_not_there_and_names_in_the_lab_are_told(
    settings: Any, tmp_path: Path
) -> None:
    changes = {
        "PACS_URL": "https://pacs",
        "PACS_CA": str(tmp_path / "no.pem"),
        "DIRECT_FETCH": True,
    }
    assert {"E011", "W011"} <= found(settings, **changes)
