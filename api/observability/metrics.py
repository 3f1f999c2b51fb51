"""Prometheus metrics of this process, and of the queue at the time of the scrape.

Owns the names; prometheus-client owns the format (text 0.0.4 and 1.0.0, OpenMetrics by Accept).
Must not know routes or Redis. Invariant: labels come from closed sets only: route templates,
methods, statuses, models; never a tenant, an ID or a prompt, so that the number of series is
bounded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    Metric,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily
from starlette.types import Scope

from jobs.contract.reports import ModelQueue, WorkerReport
from jobs.store.scripts.erase_calls import Late
from jobs.webhooks.deliveries import WebhookCounts

disable_created_metrics()  # one more series for each counter, of no use here
BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)
METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})
PREFIX = "printworks"

LabelValues = tuple[str, ...]


class Metrics:
    """Metrics of this process since its start."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._registry)
        self._requests = self._counter("http_requests", "Requests answered.", "method route status")
        self._seconds = Histogram(
            "http_request_seconds",
            "Time to the end of the response; event streams included.",
            ("method", "route"),
            namespace=PREFIX,
            buckets=BUCKETS_S,
            registry=self._registry,
        )
        self._admissions = self._counter(
            "admissions",
            "Requests for jobs, by result: accepted, replayed or error code.",
            "result",
        )
        self._store_errors = self._counter(
            "redis_errors", "Requests that failed because of Redis, by code.", "code"
        )

    def _counter(self, name: str, said: str, labels: str) -> Counter:
        return Counter(name, said, labels.split(), namespace=PREFIX, registry=self._registry)

    def observe(self, scope: Scope, status: int, seconds: float) -> None:
        """Count one answered request."""
        route = getattr(scope.get("route"), "path_format", "none")  # never the path itself
        method = scope["method"] if scope["method"] in METHODS else "other"
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)

    def admitted(self, result: str) -> None:
        """Count one request for a job: accepted, replayed, or the code of its refusal."""
        self._admissions.labels(result).inc()

    def store_failed(self, code: str) -> None:
        """Count one request that failed because of Redis, by error code."""
        self._store_errors.labels(code).inc()

    def rendered(self, more: Iterable[Metric], *, accept: str) -> tuple[bytes, str]:
        """Return all metrics as text, in the format that `accept` names, and its content type."""
        encode, content_type = choose_encoder(accept)
        return encode(_Joined(self._registry, more)), content_type


class _Joined(CollectorRegistry):
    """A registry's metrics, and more that were collected for one scrape."""

    def __init__(self, registry: CollectorRegistry, more: Iterable[Metric]) -> None:
        super().__init__()
        self._own, self._more = registry, more

    def collect(self) -> Iterator[Metric]:
        """Yield every metric once."""
        yield from self._own.collect()
        yield from self._more


def queue_metrics(queues: Sequence[ModelQueue], workers: Sequence[WorkerReport]) -> list[Metric]:
    """Build gauges of the queue and the workers: equal in every process, so never sum them."""
    by_model = [((q.model,), q) for q in queues]
    paced = [(model, q, q.cost_per_s) for model, q in by_model if q.cost_per_s is not None]
    states = [_state(worker) for worker in workers]
    slowest = max((w.step_ms or 0.0 for w in workers), default=0.0) / 1000
    return [
        gauge(
            "queue_jobs", "Jobs waiting in the queue.", {m: q.queued for m, q in by_model}, "model"
        ),
        gauge(
            "running_jobs", "Jobs running on workers.", {m: q.running for m, q in by_model}, "model"
        ),
        gauge(
            "queue_work",
            "Megapixel-rows waiting in the queue.",
            {m: q.backlog_cost for m, q in by_model},
            "model",
        ),
        gauge(
            "work_per_second",
            "Megapixel-rows per second of all workers.",
            {m: pace for m, _, pace in paced},
            "model",
        ),
        gauge(
            "queue_wait_seconds",
            "Expected wait of a new job.",
            {m: q.eta_s for m, q in by_model if q.eta_s is not None},
            "model",
        ),
        gauge(
            "queue_work_seconds",
            "Time to process the queue at the workers' speed.",
            {m: q.backlog_cost / pace for m, q, pace in paced if pace},
            "model",
        ),
        gauge(
            "model_ready",
            "Workers that have the model ready.",
            {
                m: sum(w.engine_ready and q.model in {p.model for p in w.models} for w in workers)
                for m, q in by_model
            },
            "model",
        ),
        gauge(
            "step_seconds",
            "Median time of recent model calls, of the slowest worker.",
            {(): slowest},
        ),
        gauge(
            "workers",
            "Workers, by state.",
            {(state,): states.count(state) for state in ("ready", "loading", "draining")},
            "state",
        ),
        gauge(
            "worker_images", "Images being made by workers.", {(): sum(w.images for w in workers)}
        ),
        gauge(
            "worker_slots",
            "Capacity of workers, in images.",
            {(): sum(w.slots for w in workers)},
        ),
    ]


def erase_metrics(found: Sequence[Late]) -> list[Metric]:
    """Build the gauge of overdue deletions; an operator must look if it is not 0 for long."""
    said = "Overdue for deletion and still stored: jobs with images, input images."
    return [gauge("erase_overdue", said, {(late.kind,): late.count for late in found}, "kind")]


def webhook_metrics(figures: WebhookCounts) -> list[Metric]:
    """Build metrics of webhooks, of all couriers together: never sum these over processes."""
    beside = {
        "lapsed": ("webhook_leases_lapsed", "Delivery attempts whose courier died."),
        "disabled": ("webhook_endpoints_disabled", "Endpoints disabled after failures."),
        "dropped": ("webhook_dropped", "Events dropped because too many were pending."),
    }
    outcomes = {(k,): n for k, n in figures.counts.items() if k not in beside}
    return [
        counter("webhook_attempts", "Delivery attempts, by outcome.", outcomes, "outcome"),
        *(
            counter(name, said, {(): figures.counts.get(kind, 0)})
            for kind, (name, said) in beside.items()
        ),
        gauge("webhook_outbox", "Events not yet assigned to endpoints.", {(): figures.outbox}),
        gauge("webhook_lag_seconds", "Delay of delivery attempts.", {(): figures.lag_s}),
    ]


def gauge(name: str, said: str, values: Mapping[LabelValues, float], *labels: str) -> Metric:
    """Return a gauge; `values` are keyed by the values of its labels."""
    family = GaugeMetricFamily(f"{PREFIX}_{name}", said, labels=labels)
    for of, value in values.items():
        family.add_metric(of, value)
    return family


def counter(name: str, said: str, values: Mapping[LabelValues, float], *labels: str) -> Metric:
    """Return a counter, named without its `_total`, as `gauge` does."""
    family = CounterMetricFamily(f"{PREFIX}_{name}", said, labels=labels)
    for of, value in values.items():
        family.add_metric(of, value)
    return family


def _state(worker: WorkerReport) -> str:
    if worker.draining:
        return "draining"
    return "ready" if worker.engine_ready else "loading"
