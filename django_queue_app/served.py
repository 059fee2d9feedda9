"""What workers are given: instances without their patient, and a list of them with digests."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django_queue_app.conf import conf
from django_queue_app.errors import ServiceError
from django_queue_app.models import SegmentationRequest
from django_queue_app.pacs import get_pacs
from django_queue_app.pacs.index import ServedDigest
from django_queue_app.pacs.port import InstanceSummary
from django_queue_app.privacy.pseudonymise import RULES_VERSION, pseudonymise
from django_queue_app.privacy.pseudonyms import Pseudonyms

# As many values as every database takes in one statement.
_CHUNK = 500


@dataclass(frozen=True, kw_only=True)
class ServedInstance:
    """An instance as a worker gets it, and the SHA-256 (hex) of its bytes."""

    data: bytes
    sha256: str


def current_pseudonyms() -> Pseudonyms:
    """Return the pseudonyms under the site's key."""
    return Pseudonyms(key=conf.pseudonym_key)


def read_served(instance_id: str) -> ServedInstance:
    """Return an instance as workers may see it; the same bytes each time.

    Raises
    ------
    InstanceNotFound, PacsUnavailable, InvalidInstance, CannotPseudonymise
    """
    return _serve(get_pacs().read_instance(instance_id))


def manifest(request: SegmentationRequest) -> list[dict[str, Any]]:
    """List the inputs of a request as they will be served.

    Returns
    -------
    list of dict
        Per series, in the request's order: `series_id` and `instances`, each with `id`, `bytes` and
        `sha256`, in geometric order.

    Raises
    ------
    SeriesNotFound, InstanceNotFound, PacsUnavailable, InvalidInstance, CannotPseudonymise
    """
    pacs = get_pacs()
    return [
        {
            "series_id": series_id,
            "instances": _list_served(pacs.describe_series(series_id).instances),
        }
        for series_id in request.series_ids
    ]


def remember_digest(instance_id: str, original: bytes) -> None:
    """Work out what would be served of an instance just stored, so that a claim need not."""
    try:
        instance = _serve(original)
    except ServiceError:
        return  # said when somebody asks for this instance
    _keep_digest(instance_id, hashlib.sha256(original).hexdigest(), instance)


def _serve(original: bytes) -> ServedInstance:
    data = pseudonymise(original, current_pseudonyms()) if conf.deidentify else original
    return ServedInstance(data=data, sha256=hashlib.sha256(data).hexdigest())


def _recipe() -> str:
    return f"{RULES_VERSION}-{current_pseudonyms().key_id}" if conf.deidentify else "original"


def _list_served(instances: Sequence[InstanceSummary]) -> list[dict[str, Any]]:
    known = _known_digests([one.id for one in instances])
    listed = []
    for one in instances:
        found = known.get(one.id)
        if found is None or found.content != _content_of(one):
            found = _keep_digest(one.id, _content_of(one), read_served(one.id))
        listed.append({"id": one.id, "bytes": found.size_bytes, "sha256": found.sha256})
    return listed


def _content_of(instance: InstanceSummary) -> str:
    return instance.sha256 or f"size:{instance.bytes}"


def _known_digests(ids: list[str]) -> dict[str, ServedDigest]:
    recipe, known = _recipe(), {}
    for start in range(0, len(ids), _CHUNK):
        chunk = ids[start : start + _CHUNK]
        for row in ServedDigest.objects.filter(recipe=recipe, instance_id__in=chunk):
            known[row.instance_id] = row
    return known


def _keep_digest(instance_id: str, content: str, instance: ServedInstance) -> ServedDigest:
    row, _ = ServedDigest.objects.update_or_create(
        instance_id=instance_id,
        recipe=_recipe(),
        defaults={
            "content": content,
            "sha256": instance.sha256,
            "size_bytes": len(instance.data),
        },
    )
    return row
