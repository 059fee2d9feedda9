"""The site's metrics for Prometheus.

What the database knows is read from it at each scrape, so that several processes tell the same.
What only a process knows (its HTTP calls, its refusals) is counted in it; with
`PROMETHEUS_MULTIPROC_DIR` set, prometheus-client adds the processes of one machine up.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from statistics import quantiles
from typing import Any

from django.db.models import Count, Min, Q, Sum
from django.utils import timezone
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from django_queue_app import __version__
from django_queue_app.conf import conf

PREFIX = "mri_site_"
# Stage times are those of the last hour's cases, at most so many of the newest: a scrape stays
# short on a site with a long history.
RECENT = timedelta(hours=1)
MOST_RECENT_CASES = 500
# From a cached answer to a segment call that waits five minutes under WSGI.
DURATION_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)

_of_process = CollectorRegistry()
CALLS = Counter(
    PREFIX + "http_calls",
    "Calls answered by Django; one that is held counts each time it is looked at again.",
    ["method", "route", "status"],
    registry=_of_process,
)
CALL_SECONDS = Histogram(
    PREFIX + "http_call_seconds",
    "Time inside Django, without the time for which a call was held.",
    ["route"],
    buckets=DURATION_BUCKETS_S,
    registry=_of_process,
)
LIMITED = Counter(
    PREFIX + "limited_calls", "Calls answered 429, by limit.", ["limit"], registry=_of_process
)
REFUSED = Counter(
    PREFIX + "wrong_credentials",
    "Tokens and passwords that were refused.",
    ["kind"],
    registry=_of_process,
)


def render() -> bytes:
    """Give every metric in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(SiteCollector())
    processes = _of_process
    if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        processes = CollectorRegistry()
        MultiProcessCollector(processes)  # type: ignore[no-untyped-call]
    return generate_latest(registry) + generate_latest(processes)


class SiteCollector(Collector):
    """Reads what the database and the disk know."""

    def __init__(self, now: datetime | None = None) -> None:
        self._now = now or timezone.now()

    def collect(self) -> Iterator[Metric]:
        """Give the metrics of this moment."""
        yield _gauge("info", "The site's version.", ["version"], [((__version__,), 1)])
        yield from self._queue()
        yield from self._workers()
        yield from _attempts()
        yield from self._durations()
        yield from self._files()
        yield from _disk()

    def _queue(self) -> Iterator[Metric]:
        from django_queue_app.models import SegmentationRequest
        from django_queue_app.states import ACTIVE, FINISHED, Lane, Status

        active = SegmentationRequest.objects.active().order_by().values("lane", "status")
        found: dict[tuple[str, str], dict[str, Any]] = {
            (row["lane"], row["status"]): dict(row)
            for row in active.annotate(count=Count("id"), oldest=Min("created_at"))
        }
        keys = [(lane, status) for lane in Lane.values for status in sorted(ACTIVE)]
        yield _gauge(
            "requests_active",
            "Requests that are not finished, by lane and state.",
            ["lane", "status"],
            [(key, found[key]["count"] if key in found else 0) for key in keys],
        )
        yield _gauge(
            "oldest_pending_seconds",
            "Age of the oldest pending request of a lane; 0 without one.",
            ["lane"],
            [
                ((lane,), self._age(found.get((lane, Status.PENDING), {}).get("oldest")))
                for lane in Lane.values
            ],
        )
        ends = dict(
            SegmentationRequest.objects.order_by()
            .filter(status__in=FINISHED)
            .values_list("status")
            .annotate(Count("id"))
        )
        yield _counter(
            "requests_finished",
            "Requests that ended, by how.",
            ["status"],
            [((status,), ends.get(status, 0)) for status in sorted(FINISHED)],
        )

    def _workers(self) -> Iterator[Metric]:
        from django_queue_app.health import workers_online
        from django_queue_app.states import Lane

        lanes = [worker["lane"] for worker in workers_online(self._now)]
        yield _gauge(
            "workers_online",
            "Workers that called in the last 90 s.",
            ["lane"],
            [((lane,), lanes.count(lane)) for lane in Lane.values],
        )

    def _durations(self) -> Iterator[Metric]:
        """Give the quantiles of what workers reported of each stage, and of whole cases."""
        from django_queue_app.models import SegmentationRequest
        from django_queue_app.states import Status

        recent = SegmentationRequest.objects.filter(
            status=Status.COMPLETED, finished_at__gte=self._now - RECENT
        ).order_by("-finished_at")
        seconds: dict[str, list[float]] = {}
        rows = recent.values_list("created_at", "finished_at", "result")[:MOST_RECENT_CASES]
        for created, finished, result in rows:
            if finished is not None:
                whole_s = (finished - created).total_seconds()
                seconds.setdefault("filed_to_result", []).append(whole_s)
            for stage, value in _timings(result):
                seconds.setdefault(stage, []).append(value)
        yield _gauge(
            "stage_seconds",
            "Time of each stage over the cases finished in the last hour.",
            ["stage", "quantile"],
            [
                ((stage, name), value)
                for stage, values in sorted(seconds.items())
                for name, value in _quantiles(values)
            ],
        )

    def _files(self) -> Iterator[Metric]:
        from django_queue_app.models import Artifact, SegmentationRequest
        from django_queue_app.states import Status

        found = Artifact.objects.aggregate(files=Count("id"), bytes=Sum("size_bytes"))
        yield _counter("artifacts", "Result files that were kept.", [], [((), found["files"])])
        yield _counter(
            "artifact_bytes", "Bytes of the result files.", [], [((), found["bytes"] or 0)]
        )
        completed = SegmentationRequest.objects.filter(status=Status.COMPLETED)
        masks = completed.exclude(seg_instance_id="").aggregate(
            stored=Count("id", filter=Q(saved_to_pacs_at__isnull=False)),
            waiting=Count("id", filter=Q(saved_to_pacs_at__isnull=True)),
            oldest=Min("finished_at", filter=Q(saved_to_pacs_at__isnull=True)),
        )
        yield _counter("pacs_stored", "Masks that the archive took.", [], [((), masks["stored"])])
        yield _gauge(
            "pacs_waiting",
            "Finished masks that the archive has not taken.",
            [],
            [((), masks["waiting"])],
        )
        yield _gauge(
            "pacs_oldest_waiting_seconds",
            "Since when the oldest of them waits; 0 without one.",
            [],
            [((), self._age(masks["oldest"]))],
        )

    def _age(self, moment: datetime | None) -> float:
        return 0.0 if moment is None else max(0.0, (self._now - moment).total_seconds())


def _attempts() -> Iterator[Metric]:
    from django_queue_app.models import Attempt

    rows = Attempt.objects.order_by().values_list("request__lane", "outcome")
    found = list(rows.annotate(Count("id")))
    yield _counter(
        "attempts",
        "Claims, by lane and how the run ended; `running` has not yet.",
        ["lane", "outcome"],
        [((lane, outcome), count) for lane, outcome, count in found],
    )


def _timings(result: Any) -> Iterator[tuple[str, float]]:
    """Give the stages that this site knows; a worker's own names would be labels without number."""
    from django_queue_app.states import Stage

    timings = result.get("timings") if isinstance(result, dict) else None
    for stage, value in (timings if isinstance(timings, dict) else {}).items():
        if stage in {*Stage.values, "load_model"} and isinstance(value, int | float):
            yield stage, float(value)


def _quantiles(values: list[float]) -> list[tuple[str, float]]:
    if len(values) == 1:
        return [("0.5", values[0]), ("0.95", values[0])]
    cuts = quantiles(values, n=20, method="inclusive")
    return [("0.5", cuts[9]), ("0.95", cuts[18])]


def _disk() -> Iterator[Metric]:
    usage = shutil.disk_usage(conf.data_dir)
    help_text = "of the disk that holds the site's data folder, in bytes."
    yield _gauge("disk_free_bytes", f"Free space {help_text}", [], [((), usage.free)])
    yield _gauge("disk_total_bytes", f"Size {help_text}", [], [((), usage.total)])


Samples = Iterable[tuple[tuple[str, ...], float]]


def _gauge(name: str, text: str, labels: list[str], samples: Samples) -> Metric:
    return _filled(GaugeMetricFamily(PREFIX + name, text, labels=labels), samples)


def _counter(name: str, text: str, labels: list[str], samples: Samples) -> Metric:
    return _filled(CounterMetricFamily(PREFIX + name, text, labels=labels), samples)


def _filled(family: Any, samples: Samples) -> Metric:
    for labels, value in samples:
        family.add_metric(list(labels), value)
    metric: Metric = family
    return metric
