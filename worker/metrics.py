"""What this worker does, for Prometheus: counted always, shown only where `metrics.port` is set."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from http.server import HTTPServer
from threading import Thread

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from worker.core.errors import SettingsError
from worker.outbox import Outbox
from worker.settings import MetricsSettings

# A download takes seconds, a network on a CPU minutes, the deadline is half an hour.
_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640, 1280)


class Metrics:
    """Counters and gauges in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._claims = self._counter("claims", "Claims by what the site answered", "answer")
        self._attempts = self._counter("attempts", "Cases by how they ended", "outcome", "code")
        self._stages = Histogram(
            "mri_worker_stage_seconds",
            "Duration of each stage of a finished case",
            ["stage"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._children = self._counter("child_starts", "Starts of the inference process")
        self._reachable = self._gauge("site_reachable", "1 if the site answered the last claim")
        self._full = self._gauge("disk_full", "1 while the work folder has no room for a case")
        self._memory = self._gauge("device_memory_bytes", "Memory of the device", "kind")
        self._peak = self._gauge(
            "case_peak_memory_bytes", "Peak memory of the process of the last finished case"
        )

    def claimed(self, answer: str) -> None:
        """Count a claim: granted, nothing, unavailable or refused."""
        self._claims.labels(answer).inc()
        self._reachable.set(0 if answer == "unavailable" else 1)

    def attempted(self, outcome: str, code: str) -> None:
        """Count a case: completed, failed, dropped or released, and why."""
        self._attempts.labels(outcome, code).inc()

    def finished(self, timings: Mapping[str, float], peak_memory_bytes: int) -> None:
        """Note how long each stage took, and how much memory."""
        for stage, seconds in timings.items():
            self._stages.labels(stage).observe(seconds)
        self._peak.set(peak_memory_bytes)

    def child_started(self) -> None:
        """Count a start of the inference process; all but the first are restarts."""
        self._children.inc()

    def device_memory(self, report: Mapping[str, float]) -> None:
        """Note the device's memory, by kind: total, free."""
        for kind, amount in report.items():
            self._memory.labels(kind).set(amount)

    def is_full(self, is_full: bool) -> None:
        """Note whether there is room for another case."""
        self._full.set(is_full)

    def watch_outbox(self, outbox: Outbox, now: Callable[[], float] = time.time) -> None:
        """Show at each scrape what waits for delivery."""
        self.registry.register(_OutboxCollector(outbox, now))

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"mri_worker_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"mri_worker_{name}", text, labels, registry=self.registry)


class _OutboxCollector(Collector):
    def __init__(self, outbox: Outbox, now: Callable[[], float]) -> None:
        self._outbox = outbox
        self._now = now

    def collect(self) -> Iterable[Metric]:
        ages = [self._now() - since for since in self._outbox.finished_since()]
        yield _family("outbox_size", "Finished cases not delivered yet", len(ages))
        yield _family("outbox_oldest_seconds", "Age of the oldest of them", max(ages, default=0.0))
        yield _family("outbox_refused", "Cases the site refused", len(self._outbox.refused()))


def _family(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"mri_worker_{name}", text, value=value)


class MetricsServer:
    """Serves the metrics by HTTP, on loopback unless told otherwise.

    Raises
    ------
    SettingsError
        The port can't be had.
    """

    def __init__(self, settings: MetricsSettings, metrics: Metrics) -> None:
        self._server: HTTPServer | None = None
        self._thread: Thread | None = None
        if settings.port is None:
            return
        try:
            self._server, self._thread = start_http_server(
                settings.port, addr=settings.address, registry=metrics.registry
            )
        except OSError as error:
            raise SettingsError(
                f"The metrics can't be served on {settings.address}:{settings.port} "
                f"({error.strerror}): choose another metrics.port or metrics.address."
            ) from error

    def close(self) -> None:
        """End serving."""
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
