"""Grafana dashboard: `python -m deploy.dashboard > deploy/helm/files/dashboard.json`.

Owns the panels: a title, a unit and PromQL for each. Must not know a Grafana server; the file is
imported there, or found by its sidecar. Invariant: every metric that a panel names exists
(tests/deploy/test_monitoring.py compares with a running API's /metrics).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

WIDTH, HEIGHT, ROW = 8, 7, 24  # of a panel, in Grafana's grid of 24 columns
SOURCE = {"type": "prometheus", "uid": "${source}"}
MODEL = '{model=~"$model"}'


@dataclass(frozen=True, slots=True)
class Panel:
    """A time series panel. `series`: PromQL by legend; the service's gauges are the same in each
    API process, so `max` takes them once."""

    title: str
    unit: str
    series: dict[str, str]
    description: str = ""
    stacked: bool = False


@dataclass(frozen=True, slots=True)
class Section:
    """A row of the dashboard."""

    title: str
    panels: Sequence[Panel] = field(default_factory=list[Panel])


def quantile(share: float, phase: str) -> str:
    """Return the PromQL of a quantile of a job's phase, of the jobs that succeeded."""
    buckets = (
        f'max by (le) (rate(printworks_job_seconds_bucket{{phase="{phase}",'
        f'outcome="succeeded"}}[5m]))'
    )
    return f"histogram_quantile({share}, {buckets})"


SECTIONS = (
    Section(
        "Queue",
        [
            Panel(
                "Jobs",
                "short",
                {
                    "{{model}} queued": f"max by (model) (printworks_queue_jobs{MODEL})",
                    "{{model}} running": f"max by (model) (printworks_running_jobs{MODEL})",
                },
            ),
            Panel(
                "Expected wait of a new job",
                "s",
                {"{{model}}": f"max by (model) (printworks_queue_wait_seconds{MODEL})"},
            ),
            Panel(
                "Queued work",
                "s",
                {"{{model}}": f"max by (model) (printworks_queue_work_seconds{MODEL})"},
                "time that the workers of now need for it",
            ),
            Panel(
                "Jobs by outcome",
                "ops",
                {
                    "{{outcome}}": "sum by (outcome) (max by (model, outcome, reason) "
                    f"(rate(printworks_jobs_total{MODEL}[5m])))"
                },
                stacked=True,
            ),
            Panel(
                "Answers to requests for jobs",
                "ops",
                {"{{result}}": "sum by (result) (rate(printworks_admissions_total[5m]))"},
                "accepted, replayed, or the code of the refusal",
                stacked=True,
            ),
            Panel(
                "Jobs put back",
                "ops",
                {"{{why}}": "max by (why) (rate(printworks_jobs_returned_total[5m]))"},
                stacked=True,
            ),
        ],
    ),
    Section(
        "Latency",
        [
            Panel(
                "From request to image",
                "s",
                {f"p{share:.0%}"[:-1]: quantile(share, "total") for share in (0.5, 0.95, 0.99)},
            ),
            Panel(
                "p95 by phase",
                "s",
                {phase: quantile(0.95, phase) for phase in ("queue", "run", "upload")},
            ),
            Panel(
                "Mean time of a stage",
                "s",
                {
                    "{{stage}}": "sum by (stage) (max by (model, stage) "
                    f"(rate(printworks_stage_seconds_total{MODEL}[5m]))) / ignoring (stage) "
                    "group_left () sum(max by (model) "
                    f"(rate(printworks_images_total{MODEL}[5m])))"
                },
                stacked=True,
            ),
        ],
    ),
    Section(
        "Workers",
        [
            Panel(
                "Workers",
                "short",
                {"{{state}}": "max by (state) (printworks_workers)"},
                stacked=True,
            ),
            Panel(
                "Images in work and room for them",
                "short",
                {
                    "in work": "max(printworks_worker_images)",
                    "room": "max(printworks_worker_slots)",
                },
            ),
            Panel(
                "Mean batch size",
                "short",
                {
                    "{{model}}": f"max by (model) (rate(printworks_batch_size_sum{MODEL}[5m])) / "
                    f"max by (model) (rate(printworks_batch_size_count{MODEL}[5m]))"
                },
            ),
            Panel(
                "Images",
                "ops",
                {"{{model}}": f"max by (model) (rate(printworks_images_total{MODEL}[5m]))"},
                stacked=True,
            ),
            Panel("Model call, slowest worker", "s", {"step": "max(printworks_step_seconds)"}),
            Panel(
                "Engine processes that died",
                "short",
                {"{{cause}}": "max by (cause) (increase(printworks_worker_restarts_total[15m]))"},
            ),
        ],
    ),
    Section(
        "API",
        [
            Panel(
                "Requests",
                "reqps",
                {"{{status}}": "sum by (status) (rate(printworks_http_requests_total[5m]))"},
                stacked=True,
            ),
            Panel(
                "p95 of a request",
                "s",
                {
                    "{{route}}": "histogram_quantile(0.95, sum by (le, route) "
                    "(rate(printworks_http_request_seconds_bucket[5m])))"
                },
            ),
            Panel(
                "Memory of a process",
                "bytes",
                {
                    "{{instance}}": "process_resident_memory_bytes "
                    "and on (instance) printworks_workers"
                },
            ),
        ],
    ),
    Section(
        "Storage and webhooks",
        [
            Panel(
                "Requests to object storage",
                "reqps",
                {"{{op}} {{code}}": "max by (op, code) (rate(printworks_s3_requests_total[5m]))"},
                stacked=True,
            ),
            Panel(
                "Overdue for deletion",
                "short",
                {"{{kind}}": "max by (kind) (printworks_erase_overdue)"},
            ),
            Panel(
                "Webhook attempts",
                "ops",
                {"{{outcome}}": "max by (outcome) (rate(printworks_webhook_attempts_total[5m]))"},
                stacked=True,
            ),
            Panel("Webhook delay", "s", {"delay": "max(printworks_webhook_lag_seconds)"}),
            Panel("Redis", "short", {"up": "min(printworks_redis_up)"}),
        ],
    ),
)


def dashboard() -> dict[str, Any]:
    """Return the dashboard in Grafana's JSON model (schema version 39, Grafana 11 and later)."""
    panels: list[dict[str, Any]] = []
    y = 0
    for section in SECTIONS:
        panels.append(_row(section.title, len(panels) + 1, y))
        y += 1
        for index, panel in enumerate(section.panels):
            x = index * WIDTH % ROW
            panels.append(_panel(panel, len(panels) + 1, x, y + index * WIDTH // ROW * HEIGHT))
        y += (len(section.panels) * WIDTH + ROW - 1) // ROW * HEIGHT
    return {
        "title": "Printworks",
        "uid": "printworks",
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": [_source(), _model()]},
        "panels": panels,
    }


def _row(title: str, an_id: int, y: int) -> dict[str, Any]:
    place = {"x": 0, "y": y, "w": ROW, "h": 1}
    return {"type": "row", "id": an_id, "title": title, "gridPos": place, "panels": []}


def _panel(panel: Panel, an_id: int, x: int, y: int) -> dict[str, Any]:
    custom: dict[str, Any] = {"fillOpacity": 20 if panel.stacked else 0, "showPoints": "never"}
    if panel.stacked:
        custom["stacking"] = {"mode": "normal"}
    return {
        "type": "timeseries",
        "id": an_id,
        "title": panel.title,
        "description": panel.description,
        "datasource": SOURCE,
        "gridPos": {"x": x, "y": y, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "min": 0, "custom": custom},
            "overrides": [],
        },
        "targets": [
            {"refId": chr(65 + n), "datasource": SOURCE, "expr": expr, "legendFormat": legend}
            for n, (legend, expr) in enumerate(panel.series.items())
        ],
    }


def _source() -> dict[str, Any]:
    return {"name": "source", "type": "datasource", "query": "prometheus", "label": "Source"}


def _model() -> dict[str, Any]:
    return {
        "name": "model",
        "type": "query",
        "label": "Model",
        "datasource": SOURCE,
        "query": "label_values(printworks_queue_jobs, model)",
        "includeAll": True,
        "multi": True,
        "current": {"text": "All", "value": "$__all"},
    }


if __name__ == "__main__":
    json.dump(dashboard(), sys.stdout, indent=1)
    sys.stdout.write("\n")
