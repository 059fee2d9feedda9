"""The result files that people download."""

from __future__ import annotations

import hashlib

from django.http import HttpRequest, HttpResponse
from ninja import Router

from django_queue_app import artifact_files
from django_queue_app.api.auth import FRONT_END, caller_of
from django_queue_app.api.document import IF_NONE_MATCH, answers, extra
from django_queue_app.api.errors import NotFinished
from django_queue_app.api.headers import is_unchanged
from django_queue_app.api.visibility import find_request
from django_queue_app.errors import ArtifactNotFound
from django_queue_app.models import SegmentationRequest
from django_queue_app.pacs import get_pacs
from django_queue_app.pacs.port import InstanceNotFound
from django_queue_app.states import Status

router = Router(auth=FRONT_END, tags=["front end"])

MEDIA_TYPES = {
    "mask.dcm": "application/dicom",
    "mask.nii.gz": "application/gzip",
    "preview.png": "image/png",
    "report.json": "application/json",
    "report.html": "text/html; charset=utf-8",
}
_SHOWN_IN_PLACE = frozenset({"preview.png", "report.html"})

# A page that a worker wrote is shown on this site's own address: in a sandbox it is of no origin,
# runs nothing, sends nothing and reads no cookie, whatever stands in it.
REPORT_POLICY = (
    "sandbox; default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)


def _add_route(name: str, media_type: str) -> None:
    slug = name.replace(".", "-")

    def read_artifact(request: HttpRequest, request_id: str) -> HttpResponse:
        return _answer(request, request_id, name)

    router.get(
        f"requests/{{request_id}}/{name}",
        response=answers({200: None, 304: None}, 404, 409),
        openapi_extra=extra(IF_NONE_MATCH, files={200: media_type}),
        operation_id="read_" + slug.replace("-", "_"),
        url_name=f"artifact-{slug}",
        summary=f"{name} of a completed request",
    )(read_artifact)


for _name, _media_type in MEDIA_TYPES.items():
    _add_route(_name, _media_type)


def _answer(request: HttpRequest, request_id: str, name: str) -> HttpResponse:
    found = find_request(caller_of(request), request_id)
    if found.status != Status.COMPLETED:
        raise NotFinished
    data = _read(found, name)
    etag = f'"{hashlib.sha256(data).hexdigest()}"'
    if is_unchanged(request, etag):
        response = HttpResponse(status=304)
        del response["Content-Type"]
    else:
        response = HttpResponse(data, content_type=MEDIA_TYPES[name])
        response["Content-Length"] = str(len(data))
        kind = "inline" if name in _SHOWN_IN_PLACE else "attachment"
        # The request's id only: a file name ends up in places that nobody watches.
        response["Content-Disposition"] = f'{kind}; filename="{found.pk}-{name}"'
        response["X-Content-Type-Options"] = "nosniff"
        if name == "report.html":
            response["Content-Security-Policy"] = REPORT_POLICY
    response["ETag"] = etag
    response["Cache-Control"] = "no-store"
    return response


def _read(found: SegmentationRequest, name: str) -> bytes:
    artifact = found.visible_artifacts().filter(name=name).first()
    if artifact is not None:
        return artifact_files.read_file(artifact.served_storage_name)
    if name == "mask.dcm" and found.seg_instance_id:
        return _read_from_pacs(found.seg_instance_id)
    raise ArtifactNotFound


def _read_from_pacs(seg_instance_id: str) -> bytes:
    """Read the mask of an existing worker, which stored it in the PACS itself."""
    try:
        return get_pacs().read_instance(seg_instance_id)
    except InstanceNotFound:
        raise ArtifactNotFound from None
