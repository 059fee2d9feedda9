"""From a worker's files to what people are given: checked, re-identified, put into the archive."""

from __future__ import annotations

import struct
import zlib
from uuid import UUID

from django.core.files.base import ContentFile

from django_queue_app import services
from django_queue_app.artifact_files import keep_file, keep_only, read_file
from django_queue_app.conf import conf
from django_queue_app.errors import ArtifactMissing
from django_queue_app.models import Artifact, SegmentationRequest
from django_queue_app.pacs import get_pacs
from django_queue_app.pacs.port import ConflictingInstance, SeriesDescription, SeriesNotFound
from django_queue_app.privacy.reidentify import (
    MaskRefused,
    Vault,
    build_vault,
    reidentify_json,
    reidentify_seg,
)
from django_queue_app.served import current_pseudonyms, previous_pseudonyms
from django_queue_app.services import FinalisedMask

MASK, VOLUME, REPORT = "mask.dcm", "mask.nii.gz", "report.json"

MaskUnreadable = MaskRefused

# Size of a header by its own first field: NIfTI-1 and NIfTI-2.
_NIFTI_HEADERS = (348, 540)


def finalise(request: SegmentationRequest, lease_id: UUID) -> FinalisedMask:
    """Check the files delivered under a lease and give mask and report their patient back.

    Raises
    ------
    ArtifactMissing
        There is no mask.
    MaskUnreadable
        A file can't be read, or the mask is none of this request's.
    SeriesNotFound, InstanceNotFound, PacsUnavailable
        The inputs can't be looked up now.
    """
    delivered = _delivered(request, lease_id)
    if MASK not in delivered:
        raise ArtifactMissing
    if VOLUME in delivered:
        _require_nifti(read_file(delivered[VOLUME]))
    main = _describe(request.main_series_id)
    vault = _vault_of(request, main)
    original = get_pacs().read_instance(main.instances[0].id)
    mask = reidentify_seg(read_file(delivered[MASK]), vault, original)
    report = b""
    if REPORT in delivered:
        report = reidentify_json(read_file(delivered[REPORT]), vault)
    return FinalisedMask(
        seg_instance_id=mask.instance_id,
        mask_storage_name=_keep(request, lease_id, MASK, mask.data),
        report_storage_name=_keep(request, lease_id, REPORT, report) if report else "",
    )


def store_in_pacs(request: SegmentationRequest) -> None:
    """Put the mask of a completed request into the archive; doing it again changes nothing.

    Raises
    ------
    ArtifactMissing
        The request's result has no mask of ours: an existing worker stored it itself.
    ConflictingInstance, StoreRefused, InvalidInstance
        The archive will never take it.
    PacsUnavailable
    """
    if request.is_saved_to_pacs:
        return
    mask = request.visible_artifacts().filter(name=MASK).first()
    if mask is None:
        raise ArtifactMissing
    stored = get_pacs().store_instance(read_file(mask.served_storage_name))
    if stored.is_conflicting:
        raise ConflictingInstance
    services.mark_saved_to_pacs(request_id=request.pk, seg_instance_id=stored.instance_id)


def drop_unused_files(request_id: UUID, lease_id: UUID) -> None:
    """Remove what lies under a lease and belongs to no result, once there is one.

    A server that died between writing files and noting them leaves such, and so does a result that
    came second. Nothing under this lease can become a result any more, so nothing is taken away
    from anybody.

    Raises
    ------
    StorageUnavailable
    """
    rows = Artifact.objects.filter(request_id=request_id, attempt__lease_id=lease_id)
    used = {name for row in rows for name in (row.storage_name, row.final_storage_name)}
    for folder in (_folder(request_id, lease_id), _final_folder(request_id, lease_id)):
        keep_only(folder, used)


def _folder(request_id: UUID, lease_id: UUID) -> str:
    return f"{request_id}/{lease_id}"


def _final_folder(request_id: UUID, lease_id: UUID) -> str:
    return f"{_folder(request_id, lease_id)}/final"


def _delivered(request: SegmentationRequest, lease_id: UUID) -> dict[str, str]:
    rows = Artifact.objects.filter(request=request, attempt__lease_id=lease_id)
    return dict(rows.values_list("name", "storage_name"))


def _describe(series_id: str) -> SeriesDescription:
    series = get_pacs().describe_series(series_id)
    if not series.instances:
        raise SeriesNotFound
    return series


def _vault_of(request: SegmentationRequest, main: SeriesDescription) -> Vault:
    others = [_describe(one) for one in request.series_ids if one != request.main_series_id]
    keys = [current_pseudonyms(), previous_pseudonyms()]
    return build_vault(
        main,
        others,
        [one for one in keys if one is not None],
        accepts_originals=conf.direct_fetch or not conf.deidentify,
    )


def _keep(request: SegmentationRequest, lease_id: UUID, name: str, data: bytes) -> str:
    """Write a new file beside the worker's own."""
    return keep_file(_final_folder(request.pk, lease_id), name, ContentFile(data))


def _require_nifti(data: bytes) -> None:
    """Refuse what is no gzipped NIfTI; only its header is inflated."""
    try:
        inflater = zlib.decompressobj(zlib.MAX_WBITS | 16)
        header = inflater.decompress(data, max(_NIFTI_HEADERS))
        sizes = struct.unpack("<i", header[:4]) + struct.unpack(">i", header[:4])
    except (zlib.error, struct.error) as error:
        raise _bad_volume() from error
    if not any(size in _NIFTI_HEADERS and len(header) >= size for size in sizes):
        raise _bad_volume()


def _bad_volume() -> MaskRefused:
    return MaskRefused(
        "mask.nii.gz is no gzipped NIfTI file; write it again.",
        "mask.nii.gz가 gzip으로 압축된 NIfTI 파일이 아닙니다. 다시 작성하십시오.",
        code="volume_unreadable",
    )
