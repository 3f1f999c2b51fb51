"""T09: no clock but Redis's decides anything, so a wrong one can do no harm."""

from __future__ import annotations

import ast

import pytest

from jobs.settings import ROOT

WALL_CLOCKS = {("time", "time"), ("time", "time_ns"), ("datetime", "now"), ("datetime", "utcnow")}
# they put a time into an ID, a log line or a span, and nothing is decided by it
HARMLESS = {"jobs/ids.py", "jobs/logs.py", "jobs/tracing/otel.py"}
FOLDERS = ("jobs", "worker")
NOT_THE_QUEUE = (
    "jobs/webhooks",
    "jobs/store/api_keys.py",  # a rotated API key works on for a day, by the API's own clock
    "worker/courier",
    "worker/engine/",
)


def sources() -> list[str]:
    found = [p.relative_to(ROOT).as_posix() for f in FOLDERS for p in (ROOT / f).rglob("*.py")]
    return sorted(p for p in found if not p.startswith(NOT_THE_QUEUE) and p not in HARMLESS)


@pytest.mark.parametrize("path", sources())
def test_t09_no_wall_clock_of_this_machine_is_asked(path: str):
    calls = [
        (node.func.value.id, node.func.attr)
        for node in ast.walk(ast.parse((ROOT / path).read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
    ]

    assert not WALL_CLOCKS & set(calls)
