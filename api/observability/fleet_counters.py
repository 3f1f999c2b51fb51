"""Fleet-wide counters kept in Redis, as Prometheus metrics.

Owns the names and labels, one row each. Must not know Redis. Invariant: like the queue's own
gauges these are the same in every API process, so never sum them over processes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from prometheus_client import Metric
from prometheus_client.metrics_core import HistogramMetricFamily, SummaryMetricFamily

from api.observability.metrics import PREFIX, LabelValues, counter
from jobs.store.counters import JOB_BUCKETS_S, Count

# name in pw:counts: metric without `_total`, help, labels
COUNTERS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "jobs": ("jobs", "Jobs that ended.", ("model", "outcome", "reason")),
    "images": ("images", "Images of jobs that succeeded.", ("model",)),
    "stage": ("stage_seconds", "Time of succeeded jobs in a stage.", ("model", "stage")),
    "returned": ("jobs_returned", "Jobs requeued.", ("why",)),
    "fenced_writes": ("fenced_writes", "Results refused because another worker had the lease.", ()),
    "poison": ("poison", "Jobs failed after three worker crashes.", ()),
    "engine_died": ("worker_restarts", "Engine processes that died.", ("cause",)),
    "s3": ("s3_requests", "Requests of workers to object storage.", ("op", "code")),
}
ALWAYS = ("fenced_writes", "poison")  # alerts need a 0 before the first


def fleet_metrics(counts: Sequence[Count]) -> list[Metric]:
    """Return all fleet-wide counters: totals of every process since the first start."""
    values: defaultdict[str, dict[LabelValues, float]] = defaultdict(dict)
    for name in ALWAYS:
        values[name][()] = 0
    for count in counts:
        if count.name in COUNTERS:
            values[count.name][tuple(count.labels)] = count.value
    expired = sum(c.value for c in counts if (c.name, c.labels) == ("returned", ("lease",)))
    return [
        *(
            counter(metric, said, values[name], *labels)
            for name, (metric, said, labels) in COUNTERS.items()
        ),
        counter("lease_expired", "Leases that ran out.", {(): expired}),
        _seconds(counts),
        _batches(counts),
    ]


def _seconds(counts: Sequence[Count]) -> Metric:
    """Build the histogram from the counters seconds|phase|outcome|bucket and ...|sum."""
    found: defaultdict[LabelValues, dict[str, float]] = defaultdict(dict)
    for count in counts:
        if count.name == "seconds":
            phase, outcome, bucket = count.labels
            found[phase, outcome][bucket] = count.value
    family = HistogramMetricFamily(
        f"{PREFIX}_job_seconds",
        "Duration of jobs, by phase and outcome.",
        labels=("phase", "outcome"),
    )
    for labels, by_bucket in found.items():
        seen, buckets = 0.0, list[tuple[str, float]]()
        for bound in (*(f"{b:g}" for b in JOB_BUCKETS_S), "inf"):
            seen += by_bucket.get(bound, 0)
            buckets.append(("+Inf" if bound == "inf" else bound, seen))
        family.add_metric(labels, buckets=buckets, sum_value=by_bucket.get("sum", 0.0))
    return family


def _batches(counts: Sequence[Count]) -> Metric:
    """Build the mean batch size of succeeded jobs, as sum and count by model."""
    sums = {c.labels[0]: c.value for c in counts if c.name == "batch"}
    family = SummaryMetricFamily(
        f"{PREFIX}_batch_size", "Mean batch size of succeeded jobs.", labels=("model",)
    )
    for count in counts:
        if count.name == "batched":
            model = count.labels[0]
            family.add_metric(
                (model,), count_value=int(count.value), sum_value=sums.get(model, 0.0)
            )
    return family
