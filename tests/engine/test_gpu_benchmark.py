"""The program for a GPU machine, run as a user would, on what is here: tiny models, the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import _run
from benchmarks.gpu_machine import differing, wanted
from benchmarks.gpu_parts import Clock, Part
from benchmarks.gpu_report import Report
from jobs.settings import ROOT

ON_CUDA_ONLY = {"waits", "graphs"}


def benchmark(*argv: str, path: Path | None = None) -> str:
    paths = os.pathsep.join([str(p) for p in (path, os.environ.get("PYTHONPATH")) if p])
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--small", *argv],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.timeout(900)
def test_every_part_gives_its_rows_and_the_files_name_what_they_were_made_on(tmp_path: Path):
    out = tmp_path / "gpu.json"

    said = benchmark("--minutes", "14", "--out", str(out))

    found = json.loads(out.read_text())
    tables: dict[str, list[dict[str, Any]]] = found["tables"]
    failed = {name: [r["failed"] for r in rows if "failed" in r] for name, rows in tables.items()}
    assert {name for name, why in failed.items() if why} == ON_CUDA_ONLY, failed
    assert {r["model"] for r in tables["promises"]} == {"sd15", "sdxl", "flux"}
    assert all(r["bits_as_alone"] == "2 of 2" for r in tables["demo"] if r["together"] > 1)
    for row in tables["promises"]:
        held, tried = row["held_in_other_company"].split(" of ")
        assert held == tried
    assert all(len(r["classes"].split()) == 4 for r in tables["bits"])
    assert all(r["cap_images_by_us"] >= 1 for r in tables["curves"])
    assert all(r["engine_over_bare"] > 0 for r in tables["overhead"])
    assert found["facts"].keys() >= {"commit", "device", "torch", "diffusers", "not as pinned"}
    assert found["facts"]["finished"] == "yes"
    page = out.with_suffix(".md").read_text()
    assert all(f"## {name}" in page for name in tables)
    assert "promises sd15" in said


def test_without_diffusers_it_says_so_and_measures_what_torch_alone_can(tmp_path: Path):
    (tmp_path / "diffusers.py").write_text("raise ImportError('no diffusers on this machine')")
    out = tmp_path / "gpu.json"

    said = benchmark("--minutes", "5", "--out", str(out), path=tmp_path)

    found = json.loads(out.read_text())
    assert "engine: cannot be imported: no diffusers on this machine" in said
    assert found["tables"].keys() == {"kernels"}
    assert {row["dtype"] for row in found["tables"]["kernels"]} == {
        "float32",
        "bfloat16",
        "float16",
    }


def test_a_part_that_fails_or_takes_too_long_is_told_in_its_row(tmp_path: Path):
    report = Report({}, tmp_path / "gpu.json")

    def broken() -> dict[str, Any]:
        raise RuntimeError("out of memory, say")

    def endless() -> Any:
        yield {"found": 1}
        until_s = time.monotonic() + 60
        while time.monotonic() < until_s:
            pass

    for run in (broken, endless):
        assert _run(Part("bits", {"of": run.__name__}, run, 0.2), "cpu", Clock(1), report)
    assert _run(Part("bits", {"of": "late"}, broken, 1.0), "cpu", Clock(0), report)

    rows = json.loads((tmp_path / "gpu.json").read_text())["tables"]["bits"]
    assert rows[0] == {"of": "broken", "failed": "RuntimeError: out of memory, say"}
    assert rows[1] == {"of": "endless", "found": 1}
    assert rows[2]["failed"].startswith("cut short")
    assert rows[3]["failed"] == "not begun: out of time"


def test_what_is_pinned_is_here():
    assert wanted().keys() >= {"torch", "diffusers", "greenlet", "pydantic"}
    assert differing() == {}
