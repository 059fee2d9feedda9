"""How the database finds requests.

PostgreSQL writes each change of a request into every index that holds it: so there is none that
another one begins with, none for patterns that nobody asks for, and none full of nulls.
"""

from __future__ import annotations

from django.db.models import F, Index, Q


def _where_set(column: str) -> Index:
    """Index a foreign key that few requests have."""
    return Index(
        fields=[column], condition=Q(**{f"{column}__isnull": False}), name=f"request_{column}"
    )


REQUEST_INDEXES = (
    Index(
        "lane",
        F("priority").desc(),
        "created_at",
        "id",
        condition=Q(status="pending"),
        name="request_ready",
    ),
    Index(fields=["lease_expires_at"], condition=Q(status="processing"), name="request_lease"),
    Index(fields=["-created_at", "-id"], name="request_newest"),
    Index(fields=["status", "-created_at", "-id"], name="request_status_newest"),
    Index(
        fields=["finished_at"],
        condition=Q(status="completed", saved_to_pacs_at__isnull=True),
        name="request_unsaved",
    ),
    Index(fields=["fingerprint"], name="request_fingerprint"),
    Index(fields=["seg_instance_id"], name="request_seg_instance"),
    _where_set("retry_of"),
    _where_set("user"),
    _where_set("offered_to"),
)
