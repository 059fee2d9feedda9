"""The mask slice by slice, as pictures in the order of its series' slices."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom import Dataset, FileDataset
from pydicom.pixels.utils import pixel_array

from django_queue_app.errors import ServiceError
from django_queue_app.models import SegmentationRequest
from django_queue_app.pacs import get_pacs
from django_queue_app.pacs.header import (
    frame_plane,
    integer_of,
    item_of,
    parse_dataset,
    text_of,
    uid_of,
)
from django_queue_app.pacs.ordering import distance_along, normal_of
from django_queue_app.pacs.port import Pacs, SeriesDescription, Vector3
from django_queue_app.privacy.reidentify import SEGMENTATION_CLASSES

# A frame belongs to a slice if its plane lies within this of the slice's, in mm: far more than the
# rounding of written positions, far less than a slice.
PLANE_TOLERANCE_MM = 0.05
# Direction cosines of a frame and its slice agree to this.
COSINE_TOLERANCE = 1e-3
# FRACTIONAL: this part of MaximumFractionalValue counts as inside.
FRACTION_INSIDE = 0.5

Mask = npt.NDArray[np.bool_]


class NoMask(ServiceError):
    """The instance is no segmentation, or can't be laid over its series."""

    code = "not_a_segmentation"
    http_status = 422
    default_message = "This instance is no DICOM segmentation; give the id of a mask."
    default_message_ko = "DICOM SEG 인스턴스가 아닙니다. 마스크의 ID를 지정하십시오."


class SegmentNotFound(ServiceError):
    """The mask has no segment of this number."""

    code = "segment_not_found"
    http_status = 404
    default_message = "The mask has no segment of this number; see segments in the result."
    default_message_ko = "해당 번호의 분할 영역이 없습니다. 결과의 segments를 확인하십시오."


@dataclass(frozen=True, kw_only=True)
class Slice:
    """One slice of a series: an instance, or one frame (from 0) of a multi-frame instance."""

    instance_id: str
    sop_uid: str
    frame: int
    position: Vector3 | None


def frames(seg_instance_id: str, *, segment: int | None = None) -> list[dict[str, Any]]:
    """Return the pictures of `render_frames` as the contract's list of index and base64."""
    return [
        {"index": index, "mask_base64": base64.b64encode(picture).decode("ascii")}
        for index, picture in enumerate(render_frames(seg_instance_id, segment))
    ]


def render_frames(seg_instance_id: str, segment: int | None = None) -> list[bytes]:
    """Draw the mask on every slice of its main series, empty ones too.

    Parameters
    ----------
    seg_instance_id : str
        Orthanc id of a DICOM SEG (BINARY, FRACTIONAL from half on, or LABELMAP).
    segment : int, optional
        Only the segment of this number; all together by default.

    Returns
    -------
    list of bytes
        One PNG per slice, ordered along the normal; 8-bit grey ("L"), 255 inside and 0 outside, of
        the source's rows and columns: row r and column c lie over row r and column c of the slice.

    Raises
    ------
    InstanceNotFound, SegmentNotFound, PacsUnavailable
    NoMask
        It is no SEG, its series is not in the archive, or it doesn't lie on that series' grid.
    """
    seg = parse_dataset(get_pacs().read_instance(seg_instance_id))
    if uid_of(seg, "SOPClassUID") not in SEGMENTATION_CLASSES:
        raise NoMask
    try:
        return _render(seg, seg_instance_id, segment)
    except ServiceError:
        raise
    except Exception as error:  # pydicom raises nearly anything on hostile values
        raise NoMask(
            "This mask can't be read; write it again.",
            "마스크를 읽을 수 없습니다. 다시 작성하십시오.",
            code="mask_unreadable",
        ) from error


def _render(seg: FileDataset, seg_instance_id: str, segment: int | None) -> list[bytes]:
    _require_segment(seg, segment)
    pacs = get_pacs()
    series = pacs.describe_series(_main_series_id(seg, seg_instance_id, pacs))
    slices = order_slices(series)
    masks = _masks_by_slice(seg, series, _Places(series, slices), segment)
    rows, columns = integer_of(seg, "Rows") or 0, integer_of(seg, "Columns") or 0
    empty = _encode(np.zeros((rows, columns), np.bool_))
    return [_encode(masks[index]) if index in masks else empty for index in range(len(slices))]


def order_slices(series: SeriesDescription) -> list[Slice]:
    """List a series' slices along the normal; frames of multi-frame instances are slices."""
    if all(one.frames <= 1 for one in series.instances):
        return [
            Slice(instance_id=one.id, sop_uid=one.sop_uid, frame=0, position=one.position)
            for one in series.instances
        ]
    slices: list[tuple[float, Slice]] = []
    for one in series.instances:
        dataset = parse_dataset(get_pacs().read_instance(one.id))
        for frame in range(one.frames):
            position, orientation = frame_plane(dataset, frame)
            normal = normal_of(orientation) if orientation else None
            found = Slice(instance_id=one.id, sop_uid=one.sop_uid, frame=frame, position=position)
            slices.append((distance_along(position, normal), found))
    return [found for _, found in sorted(slices, key=lambda pair: pair[0])]


def _require_segment(seg: FileDataset, segment: int | None) -> None:
    numbers = {integer_of(one, "SegmentNumber") for one in seg.get("SegmentSequence") or []}
    if segment is not None and segment not in numbers:
        raise SegmentNotFound


def _main_series_id(seg: FileDataset, seg_instance_id: str, pacs: Pacs) -> str:
    """Find the series that the mask lies on: its request's, else the one its frames refer to."""
    request = SegmentationRequest.objects.filter(seg_instance_id=seg_instance_id).first()
    if request is not None:
        return str(request.main_series_id)
    for series_uid in _series_uids_by_frames(seg):
        series_id = pacs.find_series(series_uid)
        if series_id is not None:
            return series_id
    raise NoMask(
        "The series that this mask was made from is not in the archive; import it first.",
        "이 마스크의 원본 시리즈가 저장소에 없습니다. 먼저 가져오십시오.",
        code="source_series_not_found",
    )


def _series_uids_by_frames(seg: FileDataset) -> list[str]:
    """List the referenced series, the one that most frames refer to first."""
    series_of: dict[str, str] = {}
    uids: list[str] = []
    for series in seg.get("ReferencedSeriesSequence") or []:
        uid = uid_of(series, "SeriesInstanceUID")
        uids.append(uid)
        for one in series.get("ReferencedInstanceSequence") or []:
            series_of[uid_of(one, "ReferencedSOPInstanceUID")] = uid
    counts: Counter[str] = Counter()
    for frame in range(_frame_count(seg)):
        counts.update(series_of.get(uid, "") for uid, _ in _references(seg, frame))
    return sorted(uids, key=lambda uid: -counts[uid])


def _frame_count(seg: FileDataset) -> int:
    return len(seg.get("PerFrameFunctionalGroupsSequence") or [])


def _references(seg: FileDataset, frame: int) -> Iterator[tuple[str, int | None]]:
    """Yield SOP Instance UID and frame number (from 1, or None) of a frame's sources."""
    for group in item_of(seg, "PerFrameFunctionalGroupsSequence", frame):
        for derivation in group.get("DerivationImageSequence") or []:
            for source in derivation.get("SourceImageSequence") or []:
                number = integer_of(source, "ReferencedFrameNumber")
                yield uid_of(source, "ReferencedSOPInstanceUID"), number


def _masks_by_slice(
    seg: FileDataset, series: SeriesDescription, places: _Places, segment: int | None
) -> dict[int, Mask]:
    """Decode the frames, each joined to what its slice has already."""
    _require_same_grid(seg, series)
    is_label_map = text_of(seg, "SegmentationType").upper() == "LABELMAP"
    masks: dict[int, Mask] = {}
    for frame in range(_frame_count(seg)):
        number = None if is_label_map else _segment_of(seg, frame)
        if segment is not None and not is_label_map and number != segment:
            continue
        values = _decode(seg, frame)
        inside = _inside(seg, values, segment if is_label_map else None)
        if inside.any():
            index = places.find(seg, frame)
            masks[index] = masks[index] | inside if index in masks else inside
    return masks


def _require_same_grid(seg: FileDataset, series: SeriesDescription) -> None:
    shape = (integer_of(seg, "Rows"), integer_of(seg, "Columns"))
    if not series.instances or any((one.rows, one.columns) != shape for one in series.instances):
        raise NoMask(
            f"The mask has {shape[0]} x {shape[1]} pixels, other than its series; it can't be laid "
            "over it.",
            "마스크의 행렬 크기가 시리즈와 달라 겹쳐 표시할 수 없습니다.",
            code="mask_off_grid",
        )


def _segment_of(seg: FileDataset, frame: int) -> int | None:
    groups = item_of(seg, "PerFrameFunctionalGroupsSequence", frame)
    groups += item_of(seg, "SharedFunctionalGroupsSequence", 0)
    for group in groups:
        for item in item_of(group, "SegmentIdentificationSequence", 0):
            return integer_of(item, "ReferencedSegmentNumber")
    return None


def _decode(seg: FileDataset, frame: int) -> npt.NDArray[Any]:
    try:
        return np.asarray(pixel_array(seg, index=frame))
    except Exception as error:  # decoders raise nearly anything on hostile input
        raise NoMask(
            f"Frame {frame + 1} of the mask can't be decoded; write the mask again.",
            f"마스크의 {frame + 1}번째 프레임을 해독할 수 없습니다. 다시 작성하십시오.",
            code="mask_unreadable",
        ) from error


def _inside(seg: Dataset, values: npt.NDArray[Any], label: int | None) -> Mask:
    if label is not None:
        return np.asarray(values == label)
    if text_of(seg, "SegmentationType").upper() == "FRACTIONAL":
        full = integer_of(seg, "MaximumFractionalValue") or 255
        return np.asarray(values >= FRACTION_INSIDE * full)
    return np.asarray(values > 0)


class _Places:
    """Where in the order of a series' slices a frame of a mask belongs."""

    def __init__(self, series: SeriesDescription, slices: list[Slice]) -> None:
        self._slices = slices
        self._orientation = next((one.orientation for one in series.instances), None)
        self._by_source: dict[tuple[str, int], int] = {}
        for index, one in enumerate(self._slices):
            self._by_source[one.sop_uid, one.frame + 1] = index
        self._is_multi_frame = any(one.frames > 1 for one in series.instances)

    def find(self, seg: FileDataset, frame: int) -> int:
        """Find by the slice that the frame names, else by where it lies."""
        for uid, number in _references(seg, frame):
            if number is None and self._is_multi_frame:
                continue  # the whole object is named, not its frame
            index = self._by_source.get((uid, number or 1))
            if index is not None:
                return index
        index = self._find_by_position(seg, frame)
        if index is None:
            raise NoMask(
                f"Frame {frame + 1} of the mask lies on no slice of its series.",
                f"마스크의 {frame + 1}번째 프레임에 해당하는 영상 슬라이스가 없습니다.",
                code="mask_off_grid",
            )
        return index

    def _find_by_position(self, seg: FileDataset, frame: int) -> int | None:
        position, orientation = frame_plane(seg, frame)
        if position is None or orientation is None or self._orientation is None:
            return None
        if not np.allclose(orientation, self._orientation, atol=COSINE_TOLERANCE):
            return None
        for index, one in enumerate(self._slices):
            if one.position is not None:
                apart = np.linalg.norm(np.subtract(position, one.position))
                if apart <= PLANE_TOLERANCE_MM:
                    return index
        return None


def _encode(mask: Mask) -> bytes:
    picture = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(picture, "PNG")
    return picture.getvalue()
