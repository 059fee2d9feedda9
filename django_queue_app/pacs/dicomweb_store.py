"""What a DICOMweb server answers to a store, and whether what it holds is what was sent."""

from __future__ import annotations

from typing import Any

import requests
from pydicom import Dataset
from pydicom.tag import Tag

from django_queue_app.pacs.header import parse_dataset
from django_queue_app.pacs.port import InvalidInstance, PacsUnavailable, StoreRefused

_FAILED, _REASON = "00081198", "00081197"
_REFUSALS = frozenset({400, 406, 409, 413, 415, 422})
# Failure reasons that pass: no resources, and processing that failed (PS3.18 I.2.2).
_PASSING = range(0xA700, 0xA800), range(0x0110, 0x0111)

# What servers adapt to their own records of patient and study as they store (PS3.18 10.5.3).
_ADAPTED = frozenset(
    map(
        Tag,
        (
            "SpecificCharacterSet",
            "InstanceAvailability",
            "AccessionNumber",
            "ReferringPhysicianName",
            "StudyDescription",
            "InstitutionName",
            "PatientName",
            "PatientID",
            "IssuerOfPatientID",
            "PatientBirthDate",
            "PatientSex",
            "OtherPatientIDsSequence",
            "StudyID",
            "OriginalAttributesSequence",
        ),
    )
)


def require_taken(response: requests.Response) -> None:
    """Return if a server says that it took the one object of a store.

    Raises
    ------
    StoreRefused
        It will not take it.
    PacsUnavailable
        It can't take it now.
    requests.HTTPError
        Any other status that is no success.
    """
    reasons = _failures(response)
    if any(reason in passing for reason in reasons for passing in _PASSING):
        raise PacsUnavailable
    if reasons or response.status_code in _REFUSALS:
        raise StoreRefused
    response.raise_for_status()


def _failures(response: requests.Response) -> list[int]:
    try:
        body: Any = response.json()
        items = body.get(_FAILED, {}).get("Value", [])
        return [int(item[_REASON]["Value"][0]) for item in items]
    except (ValueError, AttributeError, KeyError, IndexError, TypeError):
        return []  # no body that says more than the status


def holds_same(present: bytes, sent: bytes) -> bool:
    """Tell whether a server's object is the one that was sent, but for what servers adapt."""
    if present == sent:
        return True
    try:
        return _comparable(present) == _comparable(sent)
    except InvalidInstance:
        return False


def _comparable(data: bytes) -> Dataset:
    dataset = parse_dataset(data)
    kept = Dataset()
    for element in dataset:
        if element.tag not in _ADAPTED and not element.tag.is_private:
            kept[element.tag] = element
    return kept
