"""Report of a run: JSON as measured, and a table with ratios to the best peer.

Owns the layout. Must not measure. Invariant: a table never hides a round: it shows the median and
the range.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import Any

Rows = list[dict[str, Any]]


def medians(rows: Rows, load: str, figure: str) -> dict[str, tuple[float, float, float]]:
    """Return (median, lowest, highest) of a figure, by system."""
    found: dict[str, list[float]] = {}
    for row in rows:
        value = row.get(figure)
        if row["load"] == load and isinstance(value, int | float):
            found.setdefault(row["system"], []).append(float(value))
    return {s: (statistics.median(v), min(v), max(v)) for s, v in found.items()}


def text(run: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    rows: Rows = run["rows"]
    lines = [
        "# Side by side",
        "",
        *(f"- {name}: {value}" for name, value in run["machine"].items()),
        "",
    ]
    for load in dict.fromkeys(row["load"] for row in rows):
        lines += [f"## {load}", "", *_table(rows, load), ""]
    if run.get("ceiling"):
        lines += ["## Ceiling", "", f"`{run['ceiling']}`", ""]
    return "\n".join(lines)


def _table(rows: Rows, load: str) -> Iterable[str]:
    rates = medians(rows, load, "images_per_s")
    peers = [median for system, (median, _, _) in rates.items() if system != "ours"]
    best = max(peers, default=0.0)
    head = ("system", "images/s (range)", "of the best peer", "p50 s", "p95 s", "CPU ms", "failed")
    yield f"| {' | '.join(head)} |"
    yield "|---|---|---|---|---|---|---|"
    for system, (rate, low, high) in sorted(rates.items(), key=lambda r: -r[1][0]):
        p50 = medians(rows, load, "p50_s").get(system, (float("nan"),))[0]
        p95 = medians(rows, load, "p95_s").get(system, (float("nan"),))[0]
        cpu = medians(rows, load, "cpu_ms_an_image").get(system, (float("nan"),))[0]
        failed = sum(r["failed"] + r["unfinished"] for r in rows if _is(r, load, system))
        share = f"{rate / best:.2f}" if best else ""
        yield (
            f"| {system} | {rate:.2f} ({low:.2f} to {high:.2f}) | {share} | {p50:.2f} | {p95:.2f} |"
            f" {cpu:.0f} | {failed} |"
        )


def _is(row: dict[str, Any], load: str, system: str) -> bool:
    return row["load"] == load and row["system"] == system
