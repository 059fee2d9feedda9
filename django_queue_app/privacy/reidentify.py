"""Give a mask back to its patient: pseudonyms become the originals again.

Only what the request's own inputs explain is accepted. A mask that refers to anything else is
refused, so that no worker can attach a mask to another patient, by mistake or otherwise.

References
----------
DICOM PS3.3 A.51 (segmentation), C.7.1.1 (patient), C.7.2.1 (general study)
"""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydicom import Dataset, FileDataset, dcmwrite
from pydicom.config import IGNORE
from pydicom.dataelem import DataElement
from pydicom.dataset import FileMetaDataset
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID

from django_queue_app.errors import ServiceError
from django_queue_app.pacs import orthanc_ids
from django_queue_app.pacs.header import (
    header_of,
    integer_of,
    parse_dataset,
    pixel_bytes_of,
    uid_of,
)
from django_queue_app.pacs.port import InvalidInstance, SeriesDescription
from django_queue_app.privacy.encoding import (
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
)
from django_queue_app.privacy.pseudonyms import Pseudonyms

logger = logging.getLogger(__name__)

SEGMENTATION_CLASSES = frozenset(
    {"1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"}  # SEG, Label Map SEG
)
_CHARSET = Tag("SpecificCharacterSet")
_STANDARD_ROOT = "1.2.840.10008."
_UTF_8 = "ISO_IR 192"
_UID_WORD = re.compile(r"(?<![0-9.])[0-2](?:\.[0-9]+)+(?!\.?[0-9])")

# UIDs that an object makes for itself, or that name vocabularies and devices.
_OWN = frozenset(
    map(
        Tag,
        (
            "DimensionOrganizationUID",
            "TrackingUID",
            "ConcatenationUID",
            "SOPInstanceUIDOfConcatenationSource",
            "DeviceUID",
            "InstanceCreatorUID",
            "CodingSchemeUID",
            "ContextUID",
            "MappingResourceUID",
            "ContextGroupExtensionCreatorUID",
            "PaletteColorLookupTableUID",
        ),
    )
)
_OWN_AT_TOP = frozenset(map(Tag, ("SOPInstanceUID", "SeriesInstanceUID")))
_SOP_REFERENCE = Tag("ReferencedSOPInstanceUID")

_ALWAYS = (  # type 2: present in every object, empty if the original has none
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "StudyID",
    "AccessionNumber",
)
_IF_PRESENT = (
    "IssuerOfPatientID",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "StudyDescription",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "DeidentificationMethodCodeSequence",
    "LongitudinalTemporalInformationModified",
)


class MaskRefused(ServiceError):
    """A mask can't be given back to its patient."""

    code = "mask_unreadable"
    http_status = 422
    default_message = "The mask is no readable DICOM segmentation; write it again."
    default_message_ko = "읽을 수 있는 DICOM SEG가 아닙니다. 다시 작성하십시오."


@dataclass(frozen=True, kw_only=True)
class Vault:
    """What the request's inputs are called outside, and what they are called here.

    `originals` maps pseudonyms to originals of study, series, instance and frame of reference;
    `unmasked` has originals that no worker should know.
    """

    originals: Mapping[str, str] = field(repr=False)
    unmasked: frozenset[str] = field(default=frozenset(), repr=False)
    main_sop_uids: frozenset[str] = field(repr=False)
    main_study_uid: str = field(repr=False)
    main_frame_of_reference_uid: str = field(repr=False)
    main_rows: int
    main_columns: int

    def original_of(self, uid: str) -> str | None:
        """Return what a UID was before; None for one that is no input's."""
        return self.originals.get(uid)

    def is_input(self, uid: str) -> bool:
        """Whether a UID, original or pseudonym, is an input's."""
        return uid in self.originals or uid in self.unmasked


def build_vault(
    main: SeriesDescription,
    others: Iterable[SeriesDescription],
    pseudonyms: Iterable[Pseudonyms],
    *,
    accepts_originals: bool = False,
) -> Vault:
    """Collect the UIDs of a request's inputs.

    Parameters
    ----------
    main, others : SeriesDescription
        The request's series.
    pseudonyms : iterable of Pseudonyms
        Under each key that inputs may have been served under.
    accepts_originals : bool
        The worker may have seen the originals: they stand for themselves, too.
    """
    uids: set[str] = set()
    for series in (main, *others):
        uids |= {series.summary.study_uid, series.summary.series_uid}
        for one in series.instances:
            uids |= {one.sop_uid, one.frame_of_reference_uid}
    uids.discard("")
    originals = {uid: uid for uid in uids} if accepts_originals else {}
    for key in pseudonyms:
        originals |= {key.uid(uid): uid for uid in uids}
    first = main.instances[0]
    return Vault(
        originals=originals,
        unmasked=frozenset(uids - originals.keys()),
        main_sop_uids=frozenset(one.sop_uid for one in main.instances),
        main_study_uid=main.summary.study_uid,
        main_frame_of_reference_uid=first.frame_of_reference_uid,
        main_rows=first.rows,
        main_columns=first.columns,
    )


@dataclass(frozen=True, kw_only=True)
class ReidentifiedMask:
    """A mask under its patient's name; `instance_id` is the id it will have in the archive."""

    data: bytes = field(repr=False)
    instance_id: str
    series_id: str


def reidentify_seg(data: bytes, vault: Vault, original: bytes) -> ReidentifiedMask:
    """Give a DICOM SEG back to its patient.

    Parameters
    ----------
    data : bytes
        The SEG as the worker wrote it over pseudonymised inputs.
    vault : Vault
        The request's inputs.
    original : bytes
        One original instance of the main series; patient and study are taken from it.

    Raises
    ------
    MaskRefused
        It is no SEG, contradicts itself, or refers to what is no input of the request.
    """
    try:
        mask = parse_dataset(data)
    except InvalidInstance as error:
        raise MaskRefused(f"The mask can't be read: {error.message}", error.message_ko) from error
    try:
        _require_segmentation(mask, vault)
        _swap_uids(mask, vault)
        _restore_patient(mask, parse_dataset(original))
        return _encode(mask)
    except ServiceError:
        raise
    except Exception as error:  # pydicom raises nearly anything on hostile values
        raise MaskRefused from error


def reidentify_json(data: bytes, vault: Vault) -> bytes:
    """Replace pseudonyms of UIDs in every text of a JSON document.

    Raises
    ------
    MaskRefused
        It is no JSON in UTF-8.
    """
    try:
        document = json.loads(data.decode("utf-8"))
        restored = _restore_json(document, vault)
    except (ValueError, RecursionError) as error:
        raise MaskRefused(
            "The report is no valid JSON in UTF-8; write it again.",
            "보고서가 올바른 UTF-8 JSON이 아닙니다. 다시 작성하십시오.",
            code="report_unreadable",
        ) from error
    return json.dumps(restored, ensure_ascii=False, indent=2).encode("utf-8")


def _restore_json(value: Any, vault: Vault) -> Any:
    if isinstance(value, str):
        return _UID_WORD.sub(lambda found: vault.original_of(found[0]) or found[0], value)
    if isinstance(value, list):
        return [_restore_json(one, vault) for one in value]
    if isinstance(value, dict):
        return {_restore_json(key, vault): _restore_json(one, vault) for key, one in value.items()}
    return value


def _require_segmentation(mask: FileDataset, vault: Vault) -> None:
    if uid_of(mask, "SOPClassUID") not in SEGMENTATION_CLASSES:
        raise MaskRefused(
            "The mask is no DICOM segmentation object; write mask.dcm as DICOM SEG.",
            "마스크가 DICOM SEG가 아닙니다. mask.dcm을 DICOM SEG로 작성하십시오.",
            code="not_a_segmentation",
        )
    rows, columns = integer_of(mask, "Rows"), integer_of(mask, "Columns")
    if (rows, columns) != (vault.main_rows, vault.main_columns):
        raise MaskRefused(
            f"The mask has {rows} x {columns} pixels, its series {vault.main_rows} x "
            f"{vault.main_columns}; write it on the series' own grid.",
            "마스크의 행렬 크기가 시리즈와 다릅니다. 시리즈의 격자에 맞추어 작성하십시오.",
            code="mask_off_grid",
        )
    _require_consistent_frames(mask, (rows or 0) * (columns or 0))


def _require_consistent_frames(mask: FileDataset, pixels_per_frame: int) -> None:
    frames = integer_of(mask, "NumberOfFrames") or 0
    described = len(mask.get("PerFrameFunctionalGroupsSequence") or [])
    if frames < 1 or frames != described:
        raise _inconsistent(f"{frames} frames are announced and {described} described")
    if "PixelData" not in mask:
        raise _inconsistent("it has no pixel data")
    length = pixel_bytes_of(mask)
    if length is None:  # compressed
        return
    bits = integer_of(mask, "BitsAllocated") or 0
    needed = (pixels_per_frame * frames * bits + 7) // 8
    # One byte of padding makes the length even.
    if bits not in (1, 8, 16) or not needed <= length <= needed + 1:
        raise _inconsistent(f"{length} bytes of pixels where {needed} are announced")


def _inconsistent(what: str) -> MaskRefused:
    return MaskRefused(
        f"The mask contradicts itself: {what}; write it again.",
        "마스크의 내용이 서로 맞지 않습니다. 다시 작성하십시오.",
        code="mask_inconsistent",
    )


def _walk(dataset: Dataset, *, is_top: bool = True) -> Iterator[tuple[DataElement, bool]]:
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value or []:
                yield from _walk(item, is_top=False)
        else:
            yield element, is_top


def _swap_uids(mask: FileDataset, vault: Vault) -> None:
    has_main_reference = False
    for element, is_top in _walk(mask):
        if element.VR != "UI" or element.value in (None, ""):
            continue
        is_own = element.tag in _OWN or (is_top and element.tag in _OWN_AT_TOP)
        given = element.value if isinstance(element.value, MultiValue | list) else [element.value]
        restored = [_restore_uid(str(uid), vault, is_own=is_own) for uid in given]
        if is_own and is_top and any(map(vault.is_input, restored)):
            raise _foreign("takes the UID of one of its inputs for its own")
        if element.tag == _SOP_REFERENCE:
            has_main_reference |= not vault.main_sop_uids.isdisjoint(restored)
        element.value = restored if len(restored) > 1 else restored[0]
    if not has_main_reference:
        raise _foreign("refers to no instance of its main series")
    _require_place(mask, vault)


def _restore_uid(uid: str, vault: Vault, *, is_own: bool) -> str:
    if is_own or uid.startswith(_STANDARD_ROOT):
        return uid
    original = vault.original_of(uid)
    if uid in vault.unmasked:
        raise MaskRefused(
            "The mask names the images by their original UIDs, which this site does not send out; "
            "segment the images that the site serves, or set SEGMENTATION_DIRECT_FETCH.",
            "마스크가 사이트가 내보내지 않는 원본 UID를 참조합니다. 사이트가 제공한 영상을 "
            "사용하거나 SEGMENTATION_DIRECT_FETCH를 설정하십시오.",
            code="identity_not_pseudonymised",
        )
    if original is None:
        raise _foreign("refers to an object that is no input of the request")
    return original


def _require_place(mask: FileDataset, vault: Vault) -> None:
    if uid_of(mask, "StudyInstanceUID") != vault.main_study_uid:
        raise _foreign("belongs to another study than its main series")
    frame_of_reference = uid_of(mask, "FrameOfReferenceUID")
    if frame_of_reference != vault.main_frame_of_reference_uid:
        raise _foreign("lies in another frame of reference than its main series")


def _foreign(what: str) -> MaskRefused:
    return MaskRefused(
        f"The mask {what}; segment the request's own series.",
        "마스크가 요청의 입력이 아닌 객체를 참조합니다. 요청된 시리즈로 다시 작성하십시오.",
        code="foreign_reference",
    )


def _restore_patient(mask: FileDataset, original: FileDataset) -> None:
    """Take patient and study from the original, and its word on de-identification, if any."""
    mask.decode()
    mask.SpecificCharacterSet = _UTF_8
    for name in (*_ALWAYS, *_IF_PRESENT):
        tag = Tag(name)
        if tag in mask:
            del mask[tag]
        element = _readable(original, tag)
        if element is not None:
            mask[tag] = element
        elif name in _ALWAYS:
            setattr(mask, name, "")
    # As the archive reads it, or the mask would get another patient's id there.
    patient_id = orthanc_ids.patient_id_of(original)
    mask[Tag("PatientID")] = DataElement(Tag("PatientID"), "LO", patient_id, validation_mode=IGNORE)


def _readable(original: FileDataset, tag: BaseTag) -> DataElement | None:
    """Copy one element of the original; None where it is absent or a scanner wrote no valid value.

    Only what is copied is read: a value elsewhere in the file that can't be read keeps no mask from
    its patient.
    """
    if tag not in original:
        return None
    one = Dataset()
    is_implicit_vr, is_little_endian = original.original_encoding
    one.set_original_encoding(is_implicit_vr, is_little_endian, original.original_character_set)
    for wanted in (_CHARSET, tag):
        if wanted in original:
            one[wanted] = original.get_item(wanted)
    try:
        one.decode()
        return _copy(one[tag])
    except Exception:  # pydicom raises nearly anything on odd values
        logger.warning("original_value_unreadable", extra={"tag": str(tag)})
        return None


def _copy(element: DataElement) -> DataElement:
    if element.VR == "SQ" or element.value is None:
        return element
    is_many = isinstance(element.value, MultiValue | list)
    value = [str(one) for one in element.value] if is_many else str(element.value)
    return DataElement(element.tag, element.VR, value, validation_mode=IGNORE)


def _encode(mask: FileDataset) -> ReidentifiedMask:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = mask.file_meta.TransferSyntaxUID
    meta.MediaStorageSOPClassUID = mask.SOPClassUID
    meta.MediaStorageSOPInstanceUID = mask.SOPInstanceUID
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    mask.file_meta = meta
    mask.preamble = bytes(128)
    buffer = io.BytesIO()
    dcmwrite(buffer, mask, enforce_file_format=True)
    data = buffer.getvalue()
    header = header_of(parse_dataset(data))
    return ReidentifiedMask(data=data, instance_id=header.instance_key, series_id=header.series_key)
