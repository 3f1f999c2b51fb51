"""Metrics of what was done since ever, by all processes together: from the counts in Redis.

Owns their names and labels. Must not know Redis. Invariant: like the queue's own gauges these are
the same in every process that answers, so never sum them over processes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from api.metrics import Labels, Sample, family_of
from jobs.counts import JOB_BUCKETS_S, Count

# name in pw:counts: metric, what it says, its labels
COUNTERS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "jobs": ("jobs_total", "Jobs that ended.", ("model", "outcome", "reason")),
    "images": ("images_total", "Pictures of jobs that succeeded.", ("model",)),
    "stage": ("stage_seconds_total", "Time of such jobs in a stage.", ("model", "stage")),
    "returned": ("jobs_returned_total", "Jobs sent back to the line.", ("why",)),
    "fenced_writes": ("fenced_writes_total", "Ends refused: the lease was another's.", ()),
    "poison": ("poison_total", "Jobs given up after three crashes.", ()),
    "engine_died": ("worker_restarts_total", "Engine processes that died.", ("cause",)),
    "s3": ("s3_requests_total", "Calls of workers to the picture store.", ("op", "code")),
}
ALWAYS = ("fenced_writes", "poison")  # alerts need a 0 before the first


def lasting_families(counts: Sequence[Count]) -> list[str]:
    """All of them, as lines."""
    samples: defaultdict[str, list[Sample]] = defaultdict(list)
    for count in counts:
        if count.name in COUNTERS:
            names = COUNTERS[count.name][2]
            labels: Labels = tuple(zip(names, count.labels, strict=False))
            samples[count.name].append(("", labels, count.value))
    for name in ALWAYS:
        samples[name] = samples[name] or [("", (), 0)]
    lines = [
        line
        for name, (metric, said, _) in COUNTERS.items()
        for line in family_of(metric, "counter", said, samples[name])
    ]
    expired = sum(c.value for c in counts if (c.name, c.labels) == ("returned", ("lease",)))
    return [
        *lines,
        *family_of("lease_expired_total", "counter", "Leases that ran out.", [("", (), expired)]),
        *family_of("job_seconds", "histogram", "By phase and outcome.", _seconds(counts)),
        *family_of("batch_size", "summary", "Mean batch of such jobs.", _batches(counts)),
    ]


def _seconds(counts: Sequence[Count]) -> list[Sample]:
    """seconds|phase|outcome|bucket and ...|sum, as cumulative buckets."""
    found: defaultdict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for count in counts:
        if count.name == "seconds":
            phase, outcome, bucket = count.labels
            found[phase, outcome][bucket] = count.value
    samples: list[Sample] = []
    for (phase, outcome), told in found.items():
        labels: Labels = (("phase", phase), ("outcome", outcome))
        seen = 0.0
        for bound in (*(f"{b:g}" for b in JOB_BUCKETS_S), "inf"):
            seen += told.get(bound, 0)
            shown = "+Inf" if bound == "inf" else bound
            samples.append(("_bucket", (*labels, ("le", shown)), seen))
        samples += [("_sum", labels, told.get("sum", 0.0)), ("_count", labels, seen)]
    return samples


def _batches(counts: Sequence[Count]) -> list[Sample]:
    suffixes = {"batch": "_sum", "batched": "_count"}
    return [
        (suffixes[c.name], (("model", c.labels[0]),), c.value) for c in counts if c.name in suffixes
    ]
