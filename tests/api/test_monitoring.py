"""Alerts, dashboard and autoscaling, held against a running API and a real Prometheus."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from deploy.dashboard import SECTIONS, dashboard
from deploy.service import Service, free_port
from jobs.settings import ROOT
from tests.api.hand_worker import HandWorker
from tests.api.serving import Served
from tests.helpers import tool_missing, wait_until

FILES = ROOT / "deploy" / "helm" / "files"
NAME = re.compile(r"\b(?:printworks|process)_[a-z0-9_]+")


def binary(name: str) -> str:
    return shutil.which(name) or tool_missing(f"no {name}: `apt install prometheus`")


def existing(api: httpx2.Client) -> set[str]:
    """Every name that a query may use: of samples, and of families that have none yet."""
    names: set[str] = set()
    for family in text_string_to_metric_families(api.get("/metrics").text):
        ends = {
            "counter": ("_total",),
            "histogram": ("_bucket", "_sum", "_count"),
            "summary": ("_sum", "_count"),
        }.get(family.type, ("",))
        names |= {family.name + end for end in ends}
    return names


def test_every_alert_fires_for_its_fault_and_not_before() -> None:
    for verb in (
        ["check", "rules", FILES / "alerts.yaml"],
        ["test", "rules", ROOT / "tests" / "deploy" / "alerts_test.yaml"],
    ):
        done = subprocess.run(
            [binary("promtool"), *map(str, verb)], check=False, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested_and_has_its_place_in_the_runbook() -> None:
    rules = yaml.safe_load((FILES / "alerts.yaml").read_text())["groups"][0]["rules"]
    tested = (ROOT / "tests" / "deploy" / "alerts_test.yaml").read_text()
    runbook = (ROOT / "docs" / "operations.md").read_text()

    for rule in rules:
        fires = re.search(rf"alertname: {rule['alert']}\n +exp_alerts", tested)
        assert fires, f"{rule['alert']} never fires in a test"
        assert f"`{rule['alert']}`" in runbook


def test_what_alerts_and_dashboard_name_exists(api: httpx2.Client) -> None:
    known = existing(api)

    rules = (FILES / "alerts.yaml").read_text()
    queries = [q for s in SECTIONS for p in s.panels for q in p.series.values()]
    named = set(NAME.findall("\n".join([re.sub(r"#.*", "", rules), *queries])))

    assert named - known == set()


def test_the_dashboard_is_what_its_program_makes() -> None:
    """Else: `python -m deploy.dashboard > deploy/helm/files/dashboard.json`."""
    assert json.loads((FILES / "dashboard.json").read_text()) == dashboard()


@pytest.fixture
def prometheus(served: Served, tmp_path: Path) -> Iterator[httpx2.Client]:
    """A Prometheus that scrapes the API each second, as the chart's ServiceMonitor has it."""
    port = free_port()
    config = {
        "scrape_configs": [
            {
                "job_name": "api",
                "scrape_interval": "1s",
                "static_configs": [{"targets": [served.url.removeprefix("http://")]}],
            }
        ]
    }
    file = tmp_path / "prometheus.yml"
    file.write_text(yaml.safe_dump(config))
    client = httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=10)
    server = Service(
        name="prometheus",
        argv=[
            binary("prometheus"),
            f"--config.file={file}",
            f"--storage.tsdb.path={tmp_path / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        log=tmp_path / "log",
        cwd=tmp_path,
        env={},
        ready=lambda: _answers(client),
    )
    server.start()
    try:
        server.wait_ready()
        yield client
    finally:
        server.kill()
        client.close()


def _answers(client: httpx2.Client) -> bool:
    try:
        return client.get("/-/ready").status_code == 200
    except httpx2.HTTPError:
        return False


def queries(group: str) -> dict[str, str]:
    """The triggers of a group's ScaledObject in deploy/k8s, by name."""
    made = yaml.safe_load_all((ROOT / "deploy" / "k8s" / "scaled-worker.yaml").read_text())
    (one,) = (o for o in made if o["metadata"]["name"] == group)
    return {t["name"]: t["metadata"]["query"] for t in one["spec"]["triggers"]}


def test_jobs_wake_a_fleet_of_none_and_hold_it_until_the_last_has_run(
    served: Served, worker: HandWorker, prometheus: httpx2.Client
) -> None:
    asked = queries("printworks-worker-cpu")

    def value(trigger: str) -> float | None:
        return ask(asked[trigger])

    def ask(query: str) -> float | None:
        answer: Any = prometheus.get("/api/v1/query", params={"query": query}).json()
        found = answer["data"]["result"]
        assert len(found) <= 1  # KEDA refuses a query with several
        return float(found[0]["value"][1]) if found else None

    wait_until(lambda: value("jobs") == 0, "an idle service asks for no worker")
    assert value("work") == 0
    job = served.client.post("/v1/jobs", json={"prompt": "a cat"}).json()
    wait_until(lambda: value("jobs") == 1, "a job that waits, and no worker: one is asked for")
    worker.take()
    wait_until(
        lambda: served.client.get(f"/v1/jobs/{job['id']}").json()["status"] == "running",
        "the worker has it",
    )
    wait_until(lambda: ask("max(printworks_queue_jobs)") == 0, "no job waits any more")
    assert value("jobs") == 1  # a list of waiting jobs is empty, and would end the worker now
    served.client.post(f"/v1/jobs/{job['id']}/cancel")
    wait_until(lambda: value("jobs") == 0, "and no job asks for none")
