"""What a person calls the tables and their columns, in the administration.

Kept apart from `models.py`: names are for reading and change nothing in the database, so they need
no migration either.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from django.apps import AppConfig
from django.utils.translation import pgettext_lazy

if TYPE_CHECKING:
    from django.utils.functional import _StrPromise as Promise


@dataclass(frozen=True, kw_only=True)
class Names:
    """The names of a table's rows and of its columns."""

    one: Promise
    many: Promise
    fields: Mapping[str, Promise]


NAMES: Mapping[str, Names] = {
    "SegmentationRequest": Names(
        one=pgettext_lazy("table", "segmentation request"),
        many=pgettext_lazy("table", "segmentation requests"),
        fields={
            "id": pgettext_lazy("field", "id"),
            "main_series_id": pgettext_lazy("field", "main series"),
            "series_ids": pgettext_lazy("field", "series"),
            "order": pgettext_lazy("field", "order of the series"),
            "model": pgettext_lazy("field", "model"),
            "lane": pgettext_lazy("field", "lane"),
            "priority": pgettext_lazy("field", "priority"),
            "fingerprint": pgettext_lazy("field", "fingerprint"),
            "is_forced": pgettext_lazy("field", "filed in spite of the same one"),
            "retry_of": pgettext_lazy("field", "retry of"),
            "requested_by": pgettext_lazy("field", "requested by"),
            "user": pgettext_lazy("field", "user"),
            "created_at": pgettext_lazy("field", "created at"),
            "status": pgettext_lazy("field", "status"),
            "available_at": pgettext_lazy("field", "available at"),
            "attempt_count": pgettext_lazy("field", "attempts"),
            "claim_count": pgettext_lazy("field", "claims"),
            "lease_id": pgettext_lazy("field", "lease"),
            "lease_expires_at": pgettext_lazy("field", "lease expires at"),
            "deadline_at": pgettext_lazy("field", "deadline"),
            "offered_to": pgettext_lazy("field", "offered to"),
            "offered_until": pgettext_lazy("field", "offered until"),
            "stage": pgettext_lazy("field", "stage"),
            "progress": pgettext_lazy("field", "progress"),
            "started_at": pgettext_lazy("field", "started at"),
            "updated_at": pgettext_lazy("field", "changed at"),
            "finished_at": pgettext_lazy("field", "finished at"),
            "processed_by": pgettext_lazy("field", "processed by"),
            "result": pgettext_lazy("field", "result"),
            "result_lease_id": pgettext_lazy("field", "lease of the result"),
            "result_digest": pgettext_lazy("field", "digest of the result"),
            "seg_instance_id": pgettext_lazy("field", "DICOM SEG instance"),
            "saved_to_pacs_at": pgettext_lazy("field", "saved to the archive at"),
            "store_attempts": pgettext_lazy("field", "attempts to store"),
            "store_due_at": pgettext_lazy("field", "stored again at"),
            "store_failure_code": pgettext_lazy("field", "reason not stored (code)"),
            "failure_code": pgettext_lazy("field", "reason of the failure (code)"),
            "failure_message": pgettext_lazy("field", "reason of the failure"),
            "failure_message_ko": pgettext_lazy("field", "reason of the failure, in Korean"),
        },
    ),
    "Attempt": Names(
        one=pgettext_lazy("table", "attempt"),
        many=pgettext_lazy("table", "attempts"),
        fields={
            "request": pgettext_lazy("field", "request"),
            "number": pgettext_lazy("field", "number"),
            "lease_id": pgettext_lazy("field", "lease"),
            "token": pgettext_lazy("field", "token"),
            "worker": pgettext_lazy("field", "worker"),
            "worker_name": pgettext_lazy("field", "worker"),
            "is_legacy": pgettext_lazy("field", "existing worker"),
            "started_at": pgettext_lazy("field", "started at"),
            "ended_at": pgettext_lazy("field", "ended at"),
            "outcome": pgettext_lazy("field", "outcome"),
            "failure_code": pgettext_lazy("field", "reason of the failure (code)"),
            "failure_message": pgettext_lazy("field", "reason of the failure"),
        },
    ),
    "Event": Names(
        one=pgettext_lazy("table", "event"),
        many=pgettext_lazy("table", "events"),
        fields={
            "request": pgettext_lazy("field", "request"),
            "at": pgettext_lazy("field", "time"),
            "actor": pgettext_lazy("field", "by whom"),
            "from_status": pgettext_lazy("field", "from status"),
            "to_status": pgettext_lazy("field", "to status"),
            "reason": pgettext_lazy("field", "reason"),
            "detail": pgettext_lazy("field", "detail"),
        },
    ),
    "Artifact": Names(
        one=pgettext_lazy("table", "artifact"),
        many=pgettext_lazy("table", "artifacts"),
        fields={
            "request": pgettext_lazy("field", "request"),
            "attempt": pgettext_lazy("field", "attempt"),
            "name": pgettext_lazy("field", "file name"),
            "sha256": pgettext_lazy("field", "SHA-256"),
            "size_bytes": pgettext_lazy("field", "size in bytes"),
            "storage_name": pgettext_lazy("field", "name in the storage"),
            "final_storage_name": pgettext_lazy("field", "name in the storage, final"),
            "created_at": pgettext_lazy("field", "created at"),
        },
    ),
    "Worker": Names(
        one=pgettext_lazy("table", "worker"),
        many=pgettext_lazy("table", "workers"),
        fields={
            "token": pgettext_lazy("field", "token"),
            "name": pgettext_lazy("field", "name"),
            "lane": pgettext_lazy("field", "lane"),
            "version": pgettext_lazy("field", "version"),
            "device": pgettext_lazy("field", "device"),
            "models_offered": pgettext_lazy("field", "models offered"),
            "is_legacy": pgettext_lazy("field", "existing worker"),
            "first_seen_at": pgettext_lazy("field", "first seen at"),
            "last_seen_at": pgettext_lazy("field", "last seen at"),
        },
    ),
    "ApiToken": Names(
        one=pgettext_lazy("table", "api token"),
        many=pgettext_lazy("table", "api tokens"),
        fields={
            "kind": pgettext_lazy("field", "kind"),
            "name": pgettext_lazy("field", "name"),
            "lane": pgettext_lazy("field", "lane"),
            "user": pgettext_lazy("field", "user"),
            "created_at": pgettext_lazy("field", "created at"),
            "revoked_at": pgettext_lazy("field", "revoked at"),
            "last_used_at": pgettext_lazy("field", "last used at"),
        },
    ),
}

REASONS: Mapping[str, Promise] = {
    "filed": pgettext_lazy("reason", "filed"),
    "claimed": pgettext_lazy("reason", "taken by a worker"),
    "released": pgettext_lazy("reason", "given back by the worker"),
    "completed": pgettext_lazy("reason", "result taken"),
    "completed_late": pgettext_lazy("reason", "result taken late"),
    "cancelled": pgettext_lazy("reason", "cancelled"),
    "priority_changed": pgettext_lazy("reason", "priority changed"),
    "saved_to_pacs": pgettext_lazy("reason", "mask stored in the archive"),
}
"""Why a request changed, by the event's word; a failure's words are in `pages.failures`."""


def give_names(app: AppConfig) -> None:
    """Give the app's tables and their columns their names."""
    for model_name, names in NAMES.items():
        meta = app.get_model(model_name)._meta
        meta.verbose_name, meta.verbose_name_plural = names.one, names.many
        for field in meta.fields:
            field.verbose_name = names.fields.get(field.name, field.verbose_name)
