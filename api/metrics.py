"""Prometheus metrics of this process, and of the queue as it is when somebody asks.

Owns the names and the text format (version 0.0.4), which is small enough to need no library. Must
not know routes or Redis. Invariant: labels come from closed sets only: route templates, methods,
statuses, models; never a tenant, an ID or a prompt, so that the number of series is bounded.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from starlette.types import Scope

from jobs.overview import ModelQueue, WorkerReport
from jobs.scripts.erase_calls import Late
from jobs.webhooks.deliveries import Figures

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)
METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})

Labels = tuple[tuple[str, str], ...]
Sample = tuple[str, Labels, float]  # suffix of the name, labels, value


@dataclass(slots=True)
class Histogram:
    """How often values fell into each bucket, and their sum."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS_S) + 1))
    total: float = 0.0

    def add(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(BUCKETS_S, value)] += 1
        self.total += value

    def samples(self, labels: Labels) -> Iterator[Sample]:
        """Cumulative buckets, sum and count."""
        seen = 0
        for bound, count in zip((*BUCKETS_S, float("inf")), self.counts, strict=True):
            seen += count
            word = "+Inf" if bound == float("inf") else f"{bound:g}"
            yield "_bucket", (*labels, ("le", word)), seen
        yield "_sum", labels, self.total
        yield "_count", labels, seen


class Metrics:
    """What this process has seen since its start."""

    def __init__(self) -> None:
        self._requests: Counter[Labels] = Counter()
        self._seconds: defaultdict[Labels, Histogram] = defaultdict(Histogram)
        self._admissions: Counter[str] = Counter()
        self._store_errors: Counter[str] = Counter()

    def observe(self, scope: Scope, status: int, seconds: float) -> None:
        """One answered request."""
        route = getattr(scope.get("route"), "path_format", "none")  # never the path itself
        method = scope["method"] if scope["method"] in METHODS else "other"
        where: Labels = (("method", method), ("route", route))
        self._requests[(*where, ("status", str(status)))] += 1
        self._seconds[where].add(seconds)

    def admitted(self, result: str) -> None:
        """One request for a job: accepted, replayed, or the code of its refusal."""
        self._admissions[result] += 1

    def store_failed(self, code: str) -> None:
        """One request that Redis failed; `code`: of the error."""
        self._store_errors[code] += 1

    def text(self, *, version: str, more: Iterable[str] = ()) -> str:
        """All of it, with `more` families put behind."""
        seconds = [s for labels, h in self._seconds.items() for s in h.samples(labels)]
        families = [
            family("build_info", "gauge", "The version that runs.", {"version": version}, 1),
            *_counted("http_requests_total", "Answered requests.", self._requests),
            *family_of(
                "http_request_seconds", "histogram", "Time to answer, streams whole.", seconds
            ),
            *_counted(
                "admissions_total",
                "Requests for jobs, by what became of them.",
                {(("result", result),): n for result, n in self._admissions.items()},
            ),
            *_counted(
                "redis_errors_total",
                "Requests that failed because of Redis.",
                {(("code", code),): n for code, n in self._store_errors.items()},
            ),
            *more,
        ]
        return "\n".join(families) + "\n"


def queue_families(queues: Sequence[ModelQueue], workers: Sequence[WorkerReport]) -> list[str]:
    """The queue and the workers as they are now: the same in every process, so never sum them."""
    by_model = [((("model", q.model),), q) for q in queues]
    states = Counter(_state(worker) for worker in workers)
    slowest: dict[Labels, float] = {(): max((w.step_ms or 0.0 for w in workers), default=0) / 1000}
    gauges = {
        ("queue_jobs", "Jobs that wait."): {m: q.queued for m, q in by_model},
        ("running_jobs", "Jobs that workers hold."): {m: q.running for m, q in by_model},
        ("queue_work", "Megapixel-rows that wait."): {m: q.backlog_cost for m, q in by_model},
        ("work_per_second", "Megapixel-rows a second of all workers."): {
            m: q.cost_per_s for m, q in by_model if q.cost_per_s is not None
        },
        ("queue_wait_seconds", "Expected wait of a job sent now."): {
            m: q.eta_s for m, q in by_model if q.eta_s is not None
        },
        ("queue_work_seconds", "Time that what waits takes at the workers' pace."): {
            m: q.backlog_cost / q.cost_per_s for m, q in by_model if q.cost_per_s
        },
        ("model_ready", "Workers that have the model ready."): {
            m: sum(w.engine_ready and q.model in {p.model for p in w.models} for w in workers)
            for m, q in by_model
        },
        ("step_seconds", "Median time of the last model calls, of the slowest worker."): slowest,
        ("workers", "Workers, by state."): {
            (("state", state),): states[state] for state in ("ready", "loading", "draining")
        },
        ("worker_images", "Images that workers hold."): {(): sum(w.images for w in workers)},
        ("worker_slots", "Images that workers want to hold."): {(): sum(w.slots for w in workers)},
    }
    return [
        line
        for (name, said), values in gauges.items()
        for line in family_of(
            name, "gauge", said, [("", labels, v) for labels, v in values.items()]
        )
    ]


def erase_families(found: Sequence[Late]) -> list[str]:
    """What is due to be erased and still stored; anything but 0 for long is for an operator."""
    samples: list[Sample] = [("", (("kind", late.kind),), late.count) for late in found]
    said = "Due to be erased and still stored: jobs with pictures, inputs."
    return family_of("erase_overdue", "gauge", said, samples)


def webhook_families(figures: Figures) -> list[str]:
    """Webhooks, of all couriers together: never sum these over processes either."""
    beside = ("lapsed", "disabled", "dropped")
    outcomes = {k: n for k, n in figures.counts.items() if k not in beside}
    named = {
        "lapsed": ("webhook_leases_lapsed_total", "Attempts whose courier died."),
        "disabled": ("webhook_endpoints_disabled_total", "Endpoints given up."),
        "dropped": ("webhook_dropped_total", "Events left out, as too many waited."),
    }
    return [
        *_counted(
            "webhook_attempts_total",
            "Attempts, by outcome.",
            {(("outcome", outcome),): n for outcome, n in outcomes.items()},
        ),
        *(
            family(name, "counter", said, {}, figures.counts.get(kind, 0))
            for kind, (name, said) in named.items()
        ),
        family("webhook_outbox", "gauge", "Events not yet spread.", {}, figures.outbox),
        family("webhook_lag_seconds", "gauge", "How late attempts are.", {}, figures.lag_s),
    ]


def family(name: str, kind: str, said: str, labels: Mapping[str, str], value: float) -> str:
    """One metric of one sample."""
    return "\n".join(family_of(name, kind, said, [("", tuple(labels.items()), value)]))


def _state(worker: WorkerReport) -> str:
    if worker.draining:
        return "draining"
    return "ready" if worker.engine_ready else "loading"


def _counted(name: str, said: str, counts: Mapping[Labels, int]) -> list[str]:
    return family_of(name, "counter", said, [("", labels, n) for labels, n in counts.items()])


def family_of(name: str, kind: str, said: str, samples: Iterable[Sample]) -> list[str]:
    full = f"printworks_{name}"
    head = [f"# HELP {full} {said}", f"# TYPE {full} {kind}"]
    # 15 digits: with the 6 of :g a counter stood still from a million on
    return head + [f"{full}{suffix}{_shown(labels)} {v:.15g}" for suffix, labels, v in samples]


def _shown(labels: Labels) -> str:
    if not labels:
        return ""
    pairs = (f'{name}="{_escaped(value)}"' for name, value in labels)
    return "{" + ",".join(pairs) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
