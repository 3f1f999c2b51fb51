"""Test runs on a laptop: without xdist, and with a line on the tools that are missing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from jobs.settings import ROOT

WITHOUT = """
import pytest
from tests.helpers import tool_missing

@pytest.mark.parametrize("n", [1, 2])
def test_with_a_tool(n):
    tool_missing("no tool: `apt install tool`")

def test_on_another_system():
    pytest.skip("Linux only")
"""


def run(*arguments: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """pytest as on a laptop: not in CI."""
    environ = {n: v for n, v in os.environ.items() if n != "CI" and not n.startswith("PYTEST_")}
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider"]
    return subprocess.run(
        [*argv, *arguments],
        cwd=cwd,
        env=environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_tests_run_without_xdist():
    done = run("tests/unit/test_ids.py")

    assert done.returncode == 0, done.stdout + done.stderr


def test_what_was_left_out_is_said_in_one_line_with_the_way_to_get_it(tmp_path: Path):
    (tmp_path / "conftest.py").write_text("from tests.conftest import pytest_terminal_summary\n")
    (tmp_path / "test_here.py").write_text(WITHOUT)

    said = run(cwd=tmp_path).stdout.splitlines()

    assert "Left out here, and run in CI: no tool: `apt install tool` (tests: 2)" in said
    assert not [line for line in said if line.startswith("Left out") and "Linux" in line]
