"""Writes the mask as DICOM SEG: BINARY, or LABELMAP with RLE, without empty frames.

Decisions worth knowing:

- Every segment that the model can find is described, in ascending label value, numbered from 1,
  also when nothing of it was found: "none" is a finding, and numbers mean the same in every case.
- An empty mask still needs one frame (PS3.3 C.7.6.16); it holds one empty frame for each segment,
  at the middle slice, instead of one for each segment and slice.
- All UIDs follow from the request, the model and the inputs, so that a repeated job stores the same
  object again. Dates and times are those of the writing: they say when, not what.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path

import highdicom as hd
import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import UID, ExplicitVRLittleEndian, RLELossless, generate_uid
from pydicom.valuerep import DSfloat

from worker import __version__
from worker.adapters import memory
from worker.adapters.dicom_quiet import without_quotes
from worker.adapters.dicom_read import OpenedSeries
from worker.adapters.dicom_seg_sources import name_references, reference_headers
from worker.core.errors import ModelInvalid
from worker.core.job import ModelIdentity
from worker.core.segments import Code, Labels, SegmentSpec

PROGRAM = "mri-worker"

# A person name with a caret: dciodvfy warns of one without (PS3.5 6.2.1).
_CREATOR = f"{PROGRAM}^AI"

_TYPES = {
    "binary": hd.seg.SegmentationTypeValues.BINARY,
    "labelmap": hd.seg.SegmentationTypeValues.LABELMAP,
}

# Longest value of the LO representation (PS3.5 6.2).
_LO_CHARS = 64

# Series numbers of scanners stay below; a mask's sorts after them, and stays the same on repeats.
_FIRST_SERIES_NUMBER = 9000

# Colours for segments that name none: far apart, also for most colour-blind eyes (Okabe and Ito).
_COLORS = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (213, 94, 0),
    (204, 121, 167),
    (0, 114, 178),
)


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskRequest:
    """What a mask is written from.

    Parameters
    ----------
    labels : Labels
        On the grid of `main`.
    specs : tuple of SegmentSpec
        In ascending label value.
    main : OpenedSeries
        The series whose grid the mask lies on; its pixels may be gone already.
    others : tuple of OpenedSeries
        The further inputs.
    seg_type : str
        One of `core.segments.SEG_TYPES`.
    """

    request_id: str
    labels: Labels
    specs: tuple[SegmentSpec, ...]
    main: OpenedSeries
    others: tuple[OpenedSeries, ...]
    model: ModelIdentity
    intended_use: str = ""
    seg_type: str = "binary"

    def uid(self, role: str) -> str:
        """Give the UID of one role (``instance``, ``series``, ...): the same for the same inputs.

        References
        ----------
        DICOM PS3.5 9; pydicom's `generate_uid` joins its sources bare, hence one string.
        """
        parts = [PROGRAM, self.request_id, self.model.sha256, self.seg_type, *self._inputs, role]
        return str(generate_uid(entropy_srcs=["\n".join(parts)]))

    @cached_property
    def _inputs(self) -> tuple[str, ...]:
        inputs: list[str] = []
        for series in (self.main, *self.others):
            inputs += [header.sop_instance_uid for header in series.headers]
            inputs += [series.content_sha256, "/"]
        return tuple(inputs)


def segment_color(spec: SegmentSpec, number: int) -> tuple[int, int, int]:
    """Give the colour of a segment: its own, or the next of a set that stays apart."""
    return spec.color_rgb or _COLORS[(number - 1) % len(_COLORS)]


def write_dicom_seg(request: MaskRequest, path: Path, *, now: datetime | None = None) -> str:
    """Write a mask as DICOM SEG.

    Parameters
    ----------
    request : MaskRequest
    path : Path
    now : datetime, optional
        Time of writing.

    Returns
    -------
    str
        Its SOP Instance UID.
    """
    with memory.collector_paused():
        seg = build_dicom_seg(request, now=now or datetime.now().astimezone())
        seg.save_as(path, enforce_file_format=True)
    return str(seg.SOPInstanceUID)


def build_dicom_seg(request: MaskRequest, *, now: datetime) -> hd.seg.Segmentation:
    """Build the object in memory; `write_dicom_seg` says more."""
    _check_type(request)
    # highdicom leaves empty frames out, but would look through every one of them first.
    part = request.labels.box[2]
    planes = _planes(request.labels.between(part), request.specs)
    if not planes.any():
        middle = request.labels.shape[2] // 2
        part = slice(middle, middle + 1)
        planes = _planes(request.labels.between(part), request.specs)
    headers = reference_headers(request.main, part)
    further: Sequence[Dataset] = ()
    positions = None
    if request.main.headers[0].frame_number is not None:
        # highdicom takes one multi-frame image; more of the same series are matched by position.
        headers, further = headers[:1], headers[1:]
        positions = [_plane_position(request.main, k) for k in range(part.start, part.stop)]
    seg = _segmentation(request, headers, further, planes, positions, now)
    name_references(seg, request.main, request.others)
    _name_dimensions(seg, request.uid("dimensions"))
    _clear_padding(seg)
    return seg


def _segmentation(
    request: MaskRequest,
    headers: Sequence[Dataset],
    further: Sequence[Dataset],
    planes: npt.NDArray[np.unsignedinteger],
    positions: list[hd.PlanePositionSequence] | None,
    now: datetime,
) -> hd.seg.Segmentation:
    is_label_map = request.seg_type == "labelmap"
    with without_quotes():
        return hd.seg.Segmentation(
            source_images=headers,
            further_source_images=further or None,
            pixel_array=planes,
            plane_positions=positions,
            omit_empty_frames=bool(planes.any()),
            segmentation_type=_TYPES[request.seg_type],
            segment_descriptions=_descriptions(request),
            # One bit a voxel doesn't compress by RLE; label maps shrink to a hundredth.
            transfer_syntax_uid=RLELossless if is_label_map else ExplicitVRLittleEndian,
            series_instance_uid=request.uid("series"),
            sop_instance_uid=request.uid("instance"),
            series_number=_FIRST_SERIES_NUMBER,
            instance_number=1,
            series_description=_series_description(request),
            series_date=now.date(),
            series_time=now.time(),
            content_date=now.date(),
            content_time=now.time(),
            content_label="SEGMENTATION",
            content_description=_short(f"Segmentation by {request.model.name}"),
            content_creator_name=_CREATOR,
            manufacturer=PROGRAM,
            manufacturer_model_name=_short(request.model.name),
            # A list: pydicom takes no tuple for a value of several parts.
            software_versions=[
                f"{PROGRAM} {__version__}",
                _short(f"{request.model.name} {request.model.version}"),
            ],
            # Type 1 in Enhanced General Equipment. Software has no serial; its model's digest
            # says which exact one made the mask.
            device_serial_number=request.model.sha256[:16] or "0",
            specific_character_set="ISO_IR 192",
        )


def _check_type(request: MaskRequest) -> None:
    if request.seg_type == "labelmap" and request.labels.is_overlapping:
        raise ModelInvalid(
            f"Segments of {request.model.name} overlap, which a label map can't hold; set its "
            "seg_type to binary in config.yaml.",
            code="labels_overlap",
        )


def _planes(labels: Labels, specs: Sequence[SegmentSpec]) -> npt.NDArray[np.unsignedinteger]:
    """Give (K, J, I) segment numbers, or (K, J, I, N) masks where segments can overlap.

    The frame of a DICOM image is (rows, columns) = (J, I); here the axes turn, once.
    """
    if not labels.is_overlapping:
        numbers = {spec.label_value: number for number, spec in enumerate(specs, start=1)}
        return labels.recoded(numbers).transpose(2, 1, 0)
    masks = [labels.mask(spec.label_value).transpose(2, 1, 0) for spec in specs]
    # Each mask contiguous: highdicom goes through them frame by frame.
    return np.moveaxis(np.stack(masks).view(np.uint8), 0, -1)


def _plane_position(main: OpenedSeries, k: int) -> hd.PlanePositionSequence:
    return hd.PlanePositionSequence(
        coordinate_system=hd.CoordinateSystemNames.PATIENT,
        image_position=[
            DSfloat(value, auto_format=True) for value in main.headers[k].position or ()
        ],
    )


def _descriptions(request: MaskRequest) -> list[hd.seg.SegmentDescription]:
    algorithm = hd.AlgorithmIdentificationSequence(
        name=_short(request.model.name),
        family=codes.DCM.ArtificialIntelligence,
        version=_short(request.model.version or "unknown"),
        parameters={"sha256": request.model.sha256},
    )
    return [
        _description(spec, number, algorithm, request.uid(f"tracking {number}"))
        for number, spec in enumerate(request.specs, start=1)
    ]


def _description(
    spec: SegmentSpec,
    number: int,
    algorithm: hd.AlgorithmIdentificationSequence,
    tracking_uid: str,
) -> hd.seg.SegmentDescription:
    red, green, blue = segment_color(spec, number)
    description = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=_short(spec.label),
        segmented_property_category=_coded(spec.category),
        segmented_property_type=_coded(spec.type),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
        tracking_uid=tracking_uid,
        tracking_id=_short(f"{spec.label} {number}"),
        anatomic_regions=[_coded(spec.anatomic_region)] if spec.anatomic_region else None,
        display_color=hd.color.CIELabColor.from_rgb(red, green, blue),
    )
    if spec.type_modifier is not None:
        # highdicom has no argument for it (PS3.3 10.21, Segmented Property Type Modifier).
        description.SegmentedPropertyTypeCodeSequence[
            0
        ].SegmentedPropertyTypeModifierCodeSequence = [_coded(spec.type_modifier)]
    return description


def _coded(code: Code) -> hd.sr.CodedConcept:
    return hd.sr.CodedConcept(
        value=code.value, scheme_designator=code.scheme, meaning=_short(code.meaning)
    )


def _series_description(request: MaskRequest) -> str:
    return _short(f"{request.model.name} segmentation. {request.intended_use}".strip())


def _name_dimensions(seg: hd.seg.Segmentation, uid: str) -> None:
    """Replace the random UID that highdicom gives to the dimension organization."""
    seg.DimensionOrganizationSequence[0].DimensionOrganizationUID = UID(uid)
    for item in seg.DimensionIndexSequence:
        item.DimensionOrganizationUID = UID(uid)


def _clear_padding(seg: hd.seg.Segmentation) -> None:
    """Make the byte that pads an odd length zero; highdicom 0.28 writes the character "0"."""
    if int(seg.BitsAllocated) != 1:
        return
    bits = int(seg.NumberOfFrames) * int(seg.Rows) * int(seg.Columns)
    used = (bits + 7) // 8
    if len(seg.PixelData) > used:
        seg.PixelData = seg.PixelData[:used] + b"\0" * (len(seg.PixelData) - used)


def _short(text: str) -> str:
    """Fit a text into an LO value: no backslash, no control characters, 64 characters."""
    clean = "".join(" " if char == "\\" or not char.isprintable() else char for char in text)
    return clean[:_LO_CHARS].strip()
