"""Rows put straight into a site's tables, faster than its services would: work and history.

    python -m benchmarks.queue_rows --pending 1000 --series ID... --finished 100000

The rows are as the services leave them: a finished request has its attempt and its three events.
"""

from __future__ import annotations

import argparse
import itertools
import uuid
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import django

CHUNK = 5000
SOME_SERIES = "-".join(["0badcafe"] * 5)


def add_pending(count: int, series: Sequence[str] = (SOME_SERIES,)) -> None:
    """File requests for the series in turn, oldest first."""
    from django.utils import timezone

    from django_queue_app.models import Event, SegmentationRequest

    now = timezone.now()
    rows = []
    for number, series_id in zip(range(count), itertools.cycle(series)):
        at = now + timedelta(microseconds=number)
        rows.append(
            SegmentationRequest(
                main_series_id=series_id,
                series_ids=[series_id],
                lane="lab",
                fingerprint=f"benchmark {number}",
                is_forced=True,
                requested_by="doctor",
                created_at=at,
                available_at=now,
                updated_at=now,
            )
        )
    SegmentationRequest.objects.bulk_create(rows, batch_size=CHUNK)
    Event.objects.bulk_create(
        [
            Event(request=row, at=now, actor="doctor", to_status="pending", reason="filed")
            for row in rows
        ],
        batch_size=CHUNK,
    )


def clear_pending() -> None:
    """Take what is left of the work away, so that the next run begins as this one did."""
    from django_queue_app.models import SegmentationRequest

    left = SegmentationRequest.objects.filter(status__in=["pending", "processing"], is_forced=True)
    left.update(status="cancelled", lease_id=None, lease_expires_at=None, deadline_at=None)


def add_finished(count: int) -> None:
    """Add history: completed requests of the past, each with an attempt and three events.

    One is made as the services leave it; the database itself copies it, a million in a minute or
    two.
    """
    if count <= 0:
        return
    made = _add_finished()
    if count > 1:
        _copy_finished(made, count - 1)


_NEW_ID = {
    "postgresql": "gen_random_uuid()",
    "sqlite": "lower(hex(randomblob(16)))",
}
_EARLIER = {
    "postgresql": "{0} - i * interval '1 second'",
    "sqlite": "strftime('%Y-%m-%d %H:%M:%f000', {0}, '-' || i || ' seconds')",
}
_DIGITS = {
    "postgresql": "replace(gen_random_uuid()::text, '-', '')",
    "sqlite": "lower(hex(randomblob(16)))",
}


def _copy_finished(made: uuid.UUID, count: int) -> None:
    from django.db import connection

    from django_queue_app.models import Attempt, Event, SegmentationRequest

    mark = f"copy of {made}"
    numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %s)"
    kind = connection.vendor
    moments = ("created", "available", "updated", "finished", "started", "saved_to_pacs")
    changed = {
        "id": _NEW_ID[kind],
        "result_lease_id": _NEW_ID[kind],
        "fingerprint": _DIGITS[kind],
        "requested_by": "%s",
        **{f"{one}_at": _EARLIER[kind].format(f"t.{one}_at") for one in moments},
    }
    with connection.cursor() as cursor:
        if kind == "sqlite":  # else each row of a random key reads and writes pages again
            cursor.execute("PRAGMA cache_size = -1000000")
        into, values = _copied(SegmentationRequest, changed)
        key = SegmentationRequest._meta.pk.get_db_prep_value(made, connection)
        cursor.execute(
            f"{into} {numbers} SELECT {values} FROM {SegmentationRequest._meta.db_table} t, n"
            " WHERE t.id = %s",
            [count, mark, key],
        )
        for model, own in (
            (Attempt, {"request_id": "r.id", "lease_id": "r.result_lease_id"}),
            (Event, {"request_id": "r.id"}),
        ):
            into, values = _copied(model, own)
            cursor.execute(
                f"{into} SELECT {values} FROM {model._meta.db_table} t,"
                f" {SegmentationRequest._meta.db_table} r"
                " WHERE t.request_id = %s AND r.requested_by = %s",
                [key, mark],
            )


def _copied(model: Any, changed: Mapping[str, str]) -> tuple[str, str]:
    """Return the beginning of an INSERT, and what it takes from a row `t`."""
    columns = [one.column for one in model._meta.concrete_fields]
    if "id" not in changed:
        columns.remove("id")  # counted by the database
    values = ", ".join(changed.get(one, f't."{one}"') for one in columns)
    names = ", ".join(f'"{one}"' for one in columns)
    return f"INSERT INTO {model._meta.db_table} ({names})", values


def _add_finished() -> uuid.UUID:
    from django.utils import timezone

    from django_queue_app.models import ApiToken, Attempt, Event, SegmentationRequest

    token = ApiToken.objects.filter(kind="worker").order_by("id")[0]
    at = timezone.now() - timedelta(days=1)
    lease = uuid.uuid4()
    row = SegmentationRequest.objects.create(
        main_series_id=SOME_SERIES,
        series_ids=[SOME_SERIES],
        lane="lab",
        fingerprint=lease.hex,
        requested_by="doctor",
        created_at=at,
        available_at=at,
        updated_at=at,
        finished_at=at,
        started_at=at,
        saved_to_pacs_at=at,
        status="completed",
        attempt_count=1,
        claim_count=1,
        progress=1.0,
        processed_by=token.name,
        result={"tumor_detected": False},
        result_lease_id=lease,
    )
    Attempt.objects.create(
        request=row,
        number=1,
        lease_id=lease,
        token=token,
        worker_name=token.name,
        started_at=at,
        ended_at=at,
        outcome="completed",
    )
    for old, new in (("", "pending"), ("pending", "processing"), ("processing", "completed")):
        Event.objects.create(
            request=row, at=at, actor="doctor", from_status=old, to_status=new, reason="x"
        )
    return row.pk


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pending", type=int, default=0)
    parser.add_argument("--series", nargs="+", default=[SOME_SERIES])
    parser.add_argument("--finished", type=int, default=0)
    options = parser.parse_args()
    django.setup()
    add_finished(options.finished)
    clear_pending()
    add_pending(options.pending, options.series)


if __name__ == "__main__":
    main()
