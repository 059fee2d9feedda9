"""How long a claim takes beside a long history, and how the database finds the request.

    python -m benchmarks.queue_history --sizes 100 10000 100000

Run by `benchmarks.queue_load` in a site's environment. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import time
import uuid
from typing import Any

import django

from benchmarks.queue_figures import Row, quantiles_ms

PENDING = 60


def measure(size: int, before: int, *, claims: int) -> Row:
    """Bring the history to a size and claim beside it."""
    from django.db import connection

    from benchmarks.queue_rows import add_finished, add_pending, clear_pending

    add_finished(size - before)
    clear_pending()
    add_pending(PENDING + claims)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    seconds, cpu_s, statements = _claim(claims)
    return {
        "database": connection.vendor,
        "history": size,
        **quantiles_ms(seconds),
        "cpu_ms": 1000 * cpu_s / claims,
        "plans": _plans(statements),
    }


def _claim(claims: int) -> tuple[list[float], float, list[tuple[str, Any]]]:
    from django.db import connection
    from django.utils import timezone

    from django_queue_app import services
    from django_queue_app.models import ApiToken
    from django_queue_app.statements import claimable

    token = ApiToken.objects.filter(kind="worker").order_by("id")[0]
    info = services.WorkerInfo(name=token.name, version="1.0", device="cpu", models=("demo",))
    statements: list[tuple[str, Any]] = []

    def note(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        statements.append((sql, params))
        return execute(sql, params, many, context)

    with connection.execute_wrapper(note):
        services.claim(token=token, lease_id=uuid.uuid4(), worker=info)
        claimable([token.lane], timezone.now())
    seconds, cpu = [], time.process_time()
    for _ in range(claims):
        began = time.perf_counter()
        services.claim(token=token, lease_id=uuid.uuid4(), worker=info)
        seconds.append(time.perf_counter() - began)
    return seconds, time.process_time() - cpu, statements


def _plans(statements: list[tuple[str, Any]]) -> list[str]:
    """Explain what looks for a request, without doing it again."""
    from django.db import connection

    explain = "EXPLAIN " if connection.vendor == "postgresql" else "EXPLAIN QUERY PLAN "
    plans = []
    for sql, params in statements:
        if "segmentationrequest" not in sql or sql.startswith("INSERT"):
            continue
        with connection.cursor() as cursor:
            cursor.execute(explain + sql, params)
            lines = [str(row[-1]) for row in cursor.fetchall()]
        plans.append("\n".join([_short(sql), *(f"    {line}" for line in lines)]))
    return plans


def _short(sql: str) -> str:
    """Return what a statement of a claim, or of the watcher of waiting calls, does."""
    if "EXISTS" in sql:
        return "look what there is to do"
    if sql.startswith("UPDATE"):
        return "take the best"
    return "count for the waiting" if "COUNT" in sql else "read what was taken"


def scans(rows: list[Row]) -> list[str]:
    """Return the lines of the plans that read a whole table, where the history is longest.

    A table of a hundred rows is rightly read as a whole.
    """
    longest = max(row["history"] for row in rows)
    return [
        line.strip()
        for row in rows
        if row["history"] == longest
        for plan in row["plans"]
        for line in plan.splitlines()[1:]
        if "Seq Scan on django_queue_app_segmentationrequest" in line
        or line.strip() == "SCAN django_queue_app_segmentationrequest"
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 10_000, 100_000])
    parser.add_argument("--claims", type=int, default=50)
    options = parser.parse_args()
    django.setup()
    rows, before = [], 0
    for size in sorted(options.sizes):
        rows.append(measure(size, before, claims=options.claims))
        before = size
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
