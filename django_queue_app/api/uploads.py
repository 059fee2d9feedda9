"""The files that a worker delivers: checked while they stream, kept before they are noted."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from django.core.files import File
from django.http import HttpRequest, HttpResponse
from ninja import Router

from django_queue_app import artifact_files, services
from django_queue_app.api import worker_schemas
from django_queue_app.api.attempts import find_own_attempt, request_key
from django_queue_app.api.auth import WORKER, worker_token_of
from django_queue_app.api.document import CONTENT_DIGEST, IF_MATCH, answers, extra
from django_queue_app.api.encode import ARTIFACT_NAMES, json_answer
from django_queue_app.api.errors import BodyTooLarge, DigestMismatch
from django_queue_app.api.headers import content_digest, read_content_digest, require_lease
from django_queue_app.conf import conf
from django_queue_app.errors import ArtifactNotFound

router = Router(auth=WORKER, tags=["worker"])

CHUNK_BYTES = 1 << 16
IN_MEMORY_BYTES = 8 << 20


@router.put(
    "requests/{request_id}/artifacts/{name}",
    response=answers(
        {200: worker_schemas.Uploaded, 201: worker_schemas.Uploaded}, 400, 404, 410, 412, 413, 422
    ),
    openapi_extra=extra(
        IF_MATCH,
        CONTENT_DIGEST,
        body={
            "required": True,
            "content": {
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}}
            },
        },
    ),
    operation_id="upload_artifact",
    summary="Deliver one result file",
)
def upload_artifact(request: HttpRequest, request_id: str, name: str) -> HttpResponse:
    """Keep a file under the lease: 201 when its content is new, 200 when it was there."""
    key, lease_id = request_key(request_id), require_lease(request)
    token = worker_token_of(request)
    digest = read_content_digest(request)
    if name not in ARTIFACT_NAMES:
        raise ArtifactNotFound(
            f"A result file is one of {', '.join(ARTIFACT_NAMES)}.",
            f"결과 파일 이름은 {', '.join(ARTIFACT_NAMES)} 중 하나여야 합니다.",
        )
    find_own_attempt(key, lease_id, token)
    with _received(request, digest) as (body, size_bytes):
        storage_name = artifact_files.keep_file(f"{key}/{lease_id}", name, File(body, name=name))
    try:
        artifact, is_new = services.record_artifact(
            request_id=key,
            lease_id=lease_id,
            token=token,
            name=name,
            sha256=digest,
            size_bytes=size_bytes,
            storage_name=storage_name,
        )
    except Exception:
        artifact_files.delete_file(storage_name)
        raise
    if not is_new and artifact.storage_name != storage_name:
        artifact_files.delete_file(storage_name)
    return json_answer(
        {"name": name, "bytes": size_bytes, "sha256": digest},
        status=201 if is_new else 200,
        headers={"Content-Digest": content_digest(digest)},
    )


@contextmanager
def _received(request: HttpRequest, digest: str) -> Iterator[tuple[IO[bytes], int]]:
    """Read the body into a temporary file, up to the limit, and check it against its digest."""
    with tempfile.SpooledTemporaryFile(max_size=IN_MEMORY_BYTES) as body:
        found, size_bytes = hashlib.sha256(), 0
        while chunk := request.read(CHUNK_BYTES):
            size_bytes += len(chunk)
            if size_bytes > conf.max_upload_bytes:
                raise BodyTooLarge
            found.update(chunk)
            body.write(chunk)
        if found.hexdigest() != digest:
            raise DigestMismatch
        body.seek(0)
        yield body, size_bytes
