"""Take out of an instance who the patient is, and leave what its pixels' geometry needs.

The same bytes under the same key always give the same bytes. Not removed, since no rule can see
it: text that is part of the picture (an instance that says so itself is refused), and the face in
a head MRI.

References
----------
DICOM PS3.15 E, Basic Application Level Confidentiality Profile with Retain Longitudinal Temporal
Information with Modified Dates
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from pydicom import Dataset
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.tag import Tag

from django_queue_app.errors import ServiceError
from django_queue_app.pacs import orthanc_ids
from django_queue_app.pacs.header import parse_dataset
from django_queue_app.pacs.orthanc_ids import strip_value
from django_queue_app.privacy.allow_list import ALLOWED, VOCABULARY, Treatment
from django_queue_app.privacy.encoding import (
    Element,
    Elements,
    encode_file,
    sequence_element,
    text_element,
)
from django_queue_app.privacy.pseudonyms import Pseudonyms, shift_date

# Part of every digest's name: raise it when the rules change what is served.
RULES_VERSION = 3

CONTRAST_GIVEN, CONTRAST_NOT_GIVEN = "CONTRAST AGENT", "NONE"

METHOD = "Allow-list; keyed pseudonyms for UIDs, PatientID and dates"

_BURNED_IN = Tag(0x0028, 0x0301)
_PIXEL_REPRESENTATION = Tag(0x0028, 0x0103)
_IMAGE_TYPE, _FRAME_TYPE = 0x00080008, 0x00089007
_UNDEFINED = 0xFFFFFFFF

_NUMBER = re.compile(rb" *([-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|[-+]?(nan|NaN|inf|Inf))? *")
_INTEGER = re.compile(rb" *([-+]?\d{1,10})? *")
_TIME = re.compile(rb"[0-9]{2}([0-9]{2}([0-9]{2}(\.[0-9]{1,6})?)?)?")
_UID = re.compile(rb"[0-9.]{1,64}")
_SMALL_NUMBER = re.compile(rb"[0-9]{1,4}")
# What scanners and people write into Contrast/Bolus Agent where there was none.
_NO_CONTRAST = re.compile(rb"(?i)(no|none|without|w/?o|n|0|nil|-)?( contrast)?")
_BINARY_VRS = frozenset({"US", "SS", "UL", "SL", "FD", "FL", "AT", "OW", "OB"})
_AMBIGUOUS_VRS = {"OB or OW": "OW", "US or OW": "OW", "US or SS or OW": "OW"}

_Handler = Callable[["_Filter", int, bytes], bytes]


class CannotPseudonymise(ServiceError):
    """An instance can't leave the hospital."""

    code = "cannot_pseudonymise"
    http_status = 422


def pseudonymise(data: bytes, pseudonyms: Pseudonyms, *, allow_burned_in: bool = False) -> bytes:
    """Return an instance as workers may see it.

    Parameters
    ----------
    data : bytes
        A DICOM file.
    pseudonyms : Pseudonyms
        The site's key.
    allow_burned_in : bool
        Serve what says that text is burned into its picture, text and all.

    Returns
    -------
    bytes
        A DICOM file in the same transfer syntax, its pixel data untouched.

    Raises
    ------
    InvalidInstance
        The bytes can't be read.
    CannotPseudonymise
        It says itself that text is burned into its picture.
    """
    dataset = parse_dataset(data)
    if not allow_burned_in:
        _refuse_burned_in(dataset)
    patient_id = orthanc_ids.patient_id_of(dataset)
    shift = pseudonyms.shift_of(patient_id)
    representation = dataset.get_item(_PIXEL_REPRESENTATION, keep_deferred=True)
    is_signed = representation is not None and representation.value in (b"\1\0", b"\0\1", 1)
    kept = _Filter(pseudonyms=pseudonyms, shift=shift, is_signed=is_signed).run(dataset)
    elements = {
        **_present_if_empty(dataset),
        **kept,
        **_contrast(dataset),
        **_replaced(pseudonyms.patient(patient_id)),
    }
    try:
        return encode_file(elements, transfer_syntax=str(dataset.file_meta.TransferSyntaxUID))
    except (AttributeError, KeyError, ValueError, struct.error) as error:
        raise _unreadable() from error  # no UIDs, or a value too long for its kind


def _refuse_burned_in(dataset: Dataset) -> None:
    if strip_value(orthanc_ids.raw_bytes(dataset, _BURNED_IN)).strip().upper().startswith(b"Y"):
        raise CannotPseudonymise(
            "This image says that patient data are burned into its picture, so it must not leave "
            "the hospital; use images without burned-in text.",
            "영상에 환자 정보가 새겨져 있어 병원 밖으로 보낼 수 없습니다. 다른 영상을 쓰십시오.",
            code="burned_in_annotation",
        )


def _unreadable() -> CannotPseudonymise:
    return CannotPseudonymise(
        "A part of this image's header can't be read; export it again.",
        "영상 헤더의 일부를 읽을 수 없습니다. 다시 내보내십시오.",
        code="unreadable",
    )


def _present_if_empty(dataset: Dataset) -> dict[int, Element]:
    """Attributes of type 2 that readers and writers of derived objects look for."""
    elements = {
        0x00080020: text_element("DA", ""),
        0x00080030: text_element("TM", ""),
        0x00080050: text_element("SH", ""),
        0x00080070: text_element("LO", ""),
        0x00080090: text_element("PN", ""),
        0x00100030: text_element("DA", ""),
        0x00100040: text_element("CS", ""),
        0x00200010: text_element("SH", ""),
    }
    if Tag("FrameOfReferenceUID") in dataset:
        elements[0x00201040] = text_element("LO", "")
    if Tag("SharedFunctionalGroupsSequence") not in dataset:
        elements[0x00180050] = text_element("DS", "")
    return elements


def _contrast(dataset: Dataset) -> dict[int, Element]:
    """Say whether a contrast agent was given, which no other element tells of a T1 image.

    Its name is free text, so a word of ours stands for it.
    """
    if Tag("ContrastBolusAgentSequence") in dataset:
        return {0x00180010: text_element("LO", CONTRAST_GIVEN)}
    if Tag("ContrastBolusAgent") not in dataset:
        return {}
    written = strip_value(orthanc_ids.raw_bytes(dataset, Tag("ContrastBolusAgent")))
    is_given = _NO_CONTRAST.fullmatch(written.strip()) is None
    return {0x00180010: text_element("LO", CONTRAST_GIVEN if is_given else CONTRAST_NOT_GIVEN)}


def _replaced(patient: str) -> dict[int, Element]:
    return {
        0x00100010: text_element("PN", f"Pseudonym^{patient}"),
        0x00100020: text_element("LO", patient),
        0x00120062: text_element("CS", "YES"),
        0x00120063: text_element("LO", METHOD),
        0x00120064: sequence_element(
            _code("113100", "Basic Application Confidentiality Profile"),
            _code("113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
        ),
        0x00280303: text_element("CS", "MODIFIED"),
    }


def _code(value: str, meaning: str) -> Elements:
    return {
        0x00080100: text_element("SH", value),
        0x00080102: text_element("SH", "DCM"),
        0x00080104: text_element("LO", meaning),
    }


@dataclass(frozen=True, kw_only=True)
class _Filter:
    """Passes data sets through the allow-list."""

    pseudonyms: Pseudonyms
    shift: timedelta
    is_signed: bool

    def run(self, dataset: Dataset) -> dict[int, Element]:
        kept: dict[int, Element] = {}
        # By keys(): iterating over a data set decodes its values.
        tags = [int(tag) for tag in dataset.keys() if int(tag) in ALLOWED]  # noqa: SIM118
        # Sequences last: reading one decodes Pixel Representation beside it, which is kept raw.
        for tag in sorted(tags, key=lambda tag: ALLOWED[tag] is Treatment.SEQUENCE):
            element = self._treat(dataset, tag, ALLOWED[tag])
            if element is not None:
                kept[tag] = element
        return kept

    def _treat(self, dataset: Dataset, tag: int, treatment: Treatment) -> Element | None:
        if treatment is Treatment.SEQUENCE:
            return self._sequence(dataset, tag)
        element = dataset.get_item(Tag(tag), keep_deferred=True)
        if element is None:
            return None
        if treatment in (Treatment.PIXELS, Treatment.BINARY):
            return self._verbatim(element, tag, is_pixels=treatment is Treatment.PIXELS)
        value = _HANDLERS[treatment](self, tag, orthanc_ids.raw_bytes(dataset, Tag(tag)))
        vr = dictionary_VR(Tag(tag))
        padding = b"\0" if vr == "UI" else b" "
        return Element(vr=vr, value=value + padding * (len(value) % 2))

    def _sequence(self, dataset: Dataset, tag: int) -> Element | None:
        try:
            items = list(dataset[Tag(tag)].value or [])
            return sequence_element(*map(self.run, items))
        except Exception as error:  # what pydicom raises on it may quote the patient
            raise _unreadable() from error

    def _verbatim(
        self, element: DataElement | RawDataElement, tag: int, *, is_pixels: bool
    ) -> Element | None:
        value = element.value
        if value is None:
            value = b""
        if not isinstance(value, bytes):
            return None
        vr = self._binary_vr(element.VR, tag)
        if vr is None:
            return None
        length = element.length if isinstance(element, RawDataElement) else len(value)
        return Element(vr=vr, value=value, is_encapsulated=is_pixels and length == _UNDEFINED)

    def _binary_vr(self, given: str | None, tag: int) -> str | None:
        """Return the VR to write, or None where text stands in place of a number."""
        known = dictionary_VR(Tag(tag))
        if given in _BINARY_VRS or given == known:
            return given
        if given not in (None, "UN"):
            return None
        if known == "US or SS":
            return "SS" if self.is_signed else "US"
        return _AMBIGUOUS_VRS.get(known, known)

    def uid(self, tag: int, value: bytes) -> bytes:  # noqa: ARG002
        uid = strip_value(value)
        return self.pseudonyms.uid(uid.decode("ascii")).encode() if _UID.fullmatch(uid) else b""

    def date(self, tag: int, value: bytes) -> bytes:  # noqa: ARG002
        return shift_date(strip_value(value).decode("ascii", "replace"), self.shift).encode()

    def date_time(self, tag: int, value: bytes) -> bytes:
        text = strip_value(value)
        moved, clock = self.date(tag, text[:8]), text[8:]
        return moved + clock if moved and _TIME.fullmatch(clock) else moved

    def time(self, tag: int, value: bytes) -> bytes:  # noqa: ARG002
        text = strip_value(value).strip()
        return text if _TIME.fullmatch(text) else b""

    def number(self, tag: int, value: bytes) -> bytes:
        """Keep numbers as written; what is none becomes NaN, which no reader takes for one."""
        is_integer = dictionary_VR(Tag(tag)) == "IS"
        pattern, replacement = (_INTEGER, b"") if is_integer else (_NUMBER, b"NaN")
        parts = strip_value(value).split(b"\\")
        return b"\\".join(part if pattern.fullmatch(part) else replacement for part in parts)

    def word(self, tag: int, value: bytes) -> bytes:
        words = [word.strip() for word in strip_value(value).decode("ascii", "replace").split("\\")]
        if tag in (_IMAGE_TYPE, _FRAME_TYPE):  # its places mean something
            words = [word if word in VOCABULARY or not word else "OTHER" for word in words]
        else:
            words = [word for word in words if word in VOCABULARY]
        return "\\".join(words).encode()

    def label(self, tag: int, value: bytes) -> bytes:  # noqa: ARG002
        text = strip_value(value).strip()
        is_small = _SMALL_NUMBER.fullmatch(text) is not None
        return text if is_small else self.pseudonyms.label(text).encode()


_HANDLERS: dict[Treatment, _Handler] = {
    Treatment.UID: _Filter.uid,
    Treatment.DATE: _Filter.date,
    Treatment.DATE_TIME: _Filter.date_time,
    Treatment.TIME: _Filter.time,
    Treatment.NUMBER: _Filter.number,
    Treatment.WORD: _Filter.word,
    Treatment.LABEL: _Filter.label,
}
