"""Keyed, stable pseudonyms: the same key and value always give the same, and none leads back.

References
----------
DICOM PS3.5 B.2 (UIDs below 2.25); PS3.15 E.3.6 (dates moved by the same number of days)
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field
from datetime import date, timedelta

# Days by which a patient's dates are moved into the past: never none, at most about ten years.
SHIFT_MIN_DAYS, SHIFT_SPAN_DAYS = 31, 3650
_STANDARD_ROOT = "1.2.840.10008."


@dataclass(frozen=True, kw_only=True)
class Pseudonyms:
    """Pseudonyms under one key."""

    key: bytes = field(repr=False)

    @property
    def key_id(self) -> str:
        """Name of the key, from which it can't be derived."""
        return self._digest("key", b"").hex()[:16]

    def uid(self, uid: str) -> str:
        """Return the pseudonym of a UID; those of the standard itself stay."""
        if uid.startswith(_STANDARD_ROOT):
            return uid
        digest = hmac.new(self.key, uid.encode(), hashlib.sha256).digest()
        return f"2.25.{int.from_bytes(digest[:16], 'big')}"

    def patient(self, patient_id: str) -> str:
        """Return the pseudonym of a PatientID."""
        return f"P{self._digest('patient', patient_id.encode('utf-8', 'replace')).hex()[:16]}"

    def label(self, text: bytes) -> str:
        """Return a short pseudonym of any other value that only has to be told apart."""
        return self._digest("label", text).hex()[:12]

    def shift_of(self, patient_id: str) -> timedelta:
        """Return how far a patient's dates are moved into the past."""
        digest = self._digest("dates", patient_id.encode("utf-8", "replace"))
        return timedelta(days=SHIFT_MIN_DAYS + int.from_bytes(digest[:8], "big") % SHIFT_SPAN_DAYS)

    def _digest(self, purpose: str, value: bytes) -> bytes:
        # The purpose keeps a UID and a PatientID of the same text from being linked.
        return hmac.new(self.key, purpose.encode() + b"\0" + value, hashlib.sha256).digest()


def shift_date(text: str, shift: timedelta) -> str:
    """Move a DA value (YYYYMMDD) into the past; empty if it is no date."""
    if len(text) != 8 or not text.isascii() or not text.isdigit():
        return ""
    try:
        moved = date(int(text[:4]), int(text[4:6]), int(text[6:])) - shift
    except (ValueError, OverflowError):
        return ""
    return f"{moved.year:04d}{moved.month:02d}{moved.day:02d}"
