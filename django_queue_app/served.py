"""What workers are given: instances without their patient, and a list of them with digests."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from django_queue_app import input_cache, last_use
from django_queue_app.conf import conf
from django_queue_app.errors import ServiceError
from django_queue_app.models import SegmentationRequest
from django_queue_app.pacs import get_pacs
from django_queue_app.pacs.index import ServedDigest
from django_queue_app.pacs.port import (
    InstanceNotFound,
    InstanceSummary,
    PacsUnavailable,
    SeriesDescription,
)
from django_queue_app.privacy.pseudonymise import RULES_VERSION, pseudonymise
from django_queue_app.privacy.pseudonyms import Pseudonyms

# As many values as every database takes in one statement.
_CHUNK = 500
# How long a claim waits for series that are still being read; a worker's own limit is longer.
READING_WAIT_S = 8.0


class InputsNotReady(PacsUnavailable):
    """The inputs are still being read from the archive."""

    code = "inputs_not_ready"
    default_message = "The series are still being read from the image archive; ask again."
    default_message_ko = "영상 저장소에서 시리즈를 읽는 중입니다. 다시 요청하십시오."


class InputChanged(ServiceError):
    """The archive holds other content than what the request's worker was promised."""

    code = "input_changed"
    http_status = 410
    default_message = (
        "An image of this series was replaced in the image archive while it was being segmented; "
        "file the request again."
    )
    default_message_ko = (
        "분할하는 동안 영상 저장소에서 시리즈의 영상이 교체되었습니다. 다시 요청하십시오."
    )


class InputVanished(ServiceError):
    """The archive has an input no longer."""

    code = "input_vanished"
    http_status = 410
    default_message = (
        "An image of this series was deleted from the image archive while it was being segmented."
    )
    default_message_ko = "분할하는 동안 영상 저장소에서 시리즈의 영상이 삭제되었습니다."


@dataclass(frozen=True, kw_only=True)
class ServedInstance:
    """An instance as a worker gets it, and the SHA-256 (hex) of its bytes."""

    data: bytes
    sha256: str


class Listed(NamedTuple):
    """Size and SHA-256 (hex) of an instance as it will be served."""

    size_bytes: int
    sha256: str


class Digested(NamedTuple):
    """An instance that was read, and what of the archive's it was made from."""

    instance_id: str
    content: str
    instance: ServedInstance


def current_pseudonyms() -> Pseudonyms:
    """Return the pseudonyms under the site's key."""
    return Pseudonyms(key=conf.pseudonym_key)


def previous_pseudonyms() -> Pseudonyms | None:
    """Return the pseudonyms under the key before, if the settings still have it."""
    key = conf.previous_pseudonym_key
    return Pseudonyms(key=key) if key else None


def read_served(instance_id: str) -> ServedInstance:
    """Return an instance as workers may see it; the same bytes each time.

    Raises
    ------
    InstanceNotFound, PacsUnavailable, InvalidInstance, CannotPseudonymise
    InputChanged, InputVanished
        It is no longer what a claim has promised.
    """
    if not get_pacs().is_remote:
        return serve(get_pacs().read_instance(instance_id))
    promised = ServedDigest.objects.filter(instance_id=instance_id, recipe=recipe()).first()
    kept = input_cache.get(promised.sha256) if promised else None
    if promised and kept is not None:
        return ServedInstance(data=kept, sha256=promised.sha256)
    try:
        instance = serve(get_pacs().read_instance(instance_id))
    except InstanceNotFound as error:
        if promised is None:
            raise
        raise InputVanished from error
    if promised and promised.sha256 != instance.sha256:
        _forget(promised)
        raise InputChanged
    input_cache.keep(instance.sha256, instance.data)
    return instance


def _forget(promised: ServedDigest) -> None:
    """Promise it to no other request."""
    from django_queue_app import preparation  # it reads by what this module serves

    promised.delete()
    preparation.forget()


def manifest(
    request: SegmentationRequest, *, wait_s: float = READING_WAIT_S
) -> list[dict[str, Any]]:
    """List the inputs of a request as they will be served.

    Returns
    -------
    list of dict
        Per series, in the request's order: `series_id` and `instances`, each with `id`, `bytes` and
        `sha256`, in geometric order.

    Raises
    ------
    SeriesNotFound, InstanceNotFound, PacsUnavailable, InvalidInstance, CannotPseudonymise
    InputsNotReady
        A remote archive needs longer than `wait_s`; it goes on being read.
    """
    series = [get_pacs().describe_series(series_id) for series_id in request.series_ids]
    if get_pacs().is_remote:
        listed = _list_remote(series, wait_s)
    else:
        listed = [_list_here(one.instances) for one in series]
    return [
        {
            "series_id": one.summary.id,
            "instances": [
                {"id": each.id, "bytes": found[each.id].size_bytes, "sha256": found[each.id].sha256}
                for each in one.instances
            ],
        }
        for one, found in zip(series, listed, strict=True)
    ]


def _list_remote(series: Sequence[SeriesDescription], wait_s: float) -> list[Mapping[str, Listed]]:
    from django_queue_app import preparation  # it reads by what this module serves

    runs = [preparation.list_series(one) for one in series]
    end = time.monotonic() + wait_s
    try:
        return [run.result(max(0.0, end - time.monotonic())) for run in runs]
    except TimeoutError as error:
        raise InputsNotReady from error


def _list_here(instances: Sequence[InstanceSummary]) -> Mapping[str, Listed]:
    listed = dict(known_digests(instances))
    for one in instances:
        if one.id not in listed:
            listed |= keep_digests([Digested(one.id, content_of(one), read_served(one.id))])
    return listed


def remember_digest(instance_id: str, original: bytes) -> None:
    """Work out what would be served of an instance just stored, so that a claim need not."""
    if get_pacs().is_remote:
        return  # read again for its version, which only the archive knows
    try:
        instance = serve(original)
    except ServiceError:
        return  # said when somebody asks for this instance
    keep_digests([Digested(instance_id, hashlib.sha256(original).hexdigest(), instance)])


def serve(original: bytes) -> ServedInstance:
    """Return what is served of an original.

    Raises
    ------
    InvalidInstance, CannotPseudonymise
    """
    data = original
    if conf.deidentify:
        data = pseudonymise(original, current_pseudonyms(), allow_burned_in=conf.allow_burned_in)
    return ServedInstance(data=data, sha256=hashlib.sha256(data).hexdigest())


def recipe() -> str:
    """Name what is done to originals; another name makes every digest stale."""
    return f"{RULES_VERSION}-{current_pseudonyms().key_id}" if conf.deidentify else "original"


def content_of(instance: InstanceSummary) -> str:
    """Name the content of an original, as well as the archive can tell."""
    return instance.sha256 or instance.version or f"size:{instance.bytes}"


def known_digests(instances: Sequence[InstanceSummary]) -> Mapping[str, Listed]:
    """Return the digests that still hold, by id.

    Of an archive that can't tell versions, only what is still kept is believed.
    """
    contents = {one.id: content_of(one) for one in instances}
    unversioned = {one.id for one in instances if not (one.sha256 or one.version)}
    known = {}
    for row in _rows(list(contents)):
        is_at_hand = row.instance_id not in unversioned or input_cache.has(row.sha256)
        if row.content == contents[row.instance_id] and is_at_hand:
            known[row.instance_id] = Listed(row.size_bytes, row.sha256)
    return known


def _rows(ids: list[str]) -> Iterable[ServedDigest]:
    name = recipe()
    for start in range(0, len(ids), _CHUNK):
        chunk = ids[start : start + _CHUNK]
        rows = list(ServedDigest.objects.filter(recipe=name, instance_id__in=chunk))
        last_use.touch(ServedDigest, rows)
        yield from rows


def keep_digests(lot: Sequence[Digested]) -> Mapping[str, Listed]:
    """Write digests down and return them, by id."""
    name = recipe()
    rows = [
        ServedDigest(
            instance_id=one.instance_id,
            recipe=name,
            content=one.content,
            sha256=one.instance.sha256,
            size_bytes=len(one.instance.data),
        )
        for one in lot
    ]
    ServedDigest.objects.bulk_create(
        rows,
        update_conflicts=True,
        unique_fields=["instance_id", "recipe"],
        update_fields=["content", "sha256", "size_bytes", "used_at"],
    )
    return {row.instance_id: Listed(row.size_bytes, row.sha256) for row in rows}
