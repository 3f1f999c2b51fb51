"""The house rules that a machine can hold. Each names why it is there."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.contract.record import FINAL, MOVES, RQ_STATUS, Status
from jobs.settings import ROOT
from tests.settings_table import rows

OURS = ("api", "jobs", "worker", "client", "deploy", "models", "benchmarks", "tests")
MAX_LINES = 400  # a file that owns one thing is about 250


def sources(*folders: str) -> list[Path]:
    return [p for folder in folders for p in sorted((ROOT / folder).rglob("*.py"))]


def names_made_in(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def test_no_file_grew_past_what_one_head_holds():
    long = {str(p.relative_to(ROOT)): n for p in sources(*OURS) if (n := lines_of(p)) > MAX_LINES}

    assert not long


def lines_of(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize(
    "path", sources("api", "jobs", "worker", "client"), ids=lambda p: str(p.name)
)
def test_the_banned_word_is_in_no_name_of_ours(path: Path):
    # diffusers calls a sampler a scheduler, queues call admission scheduling: so do we neither
    made = {n for n in names_made_in(ast.parse(path.read_text())) if "scheduler" in n.lower()}

    assert not made


def test_the_api_never_imports_torch():
    # 200 MB and seconds of start-up, in every API process
    code = "import sys, api.app; sys.exit(any(m in sys.modules for m in ('torch', 'diffusers')))"

    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_the_table_of_moves_covers_every_status_and_final_is_final():
    assert set(MOVES) == set(Status)
    assert {s for s, ways in MOVES.items() if not ways} <= FINAL
    assert MOVES[Status.FAILED] == {Status.QUEUED}  # an operator's requeue, the one way back
    assert set(RQ_STATUS.values()) == set(Status) - {Status.EXPIRED}


def test_the_readme_shows_every_setting_as_it_is():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")

    assert "\n".join(rows()) in readme


def test_a_decision_fits_a_page():
    long = {p.name: n for p in (ROOT / "docs/decisions").glob("*.md") if (n := lines_of(p)) > 40}

    assert not long


def test_every_module_says_what_it_owns():
    silent = [
        str(p.relative_to(ROOT))
        for p in sources("api", "jobs", "worker", "client", "deploy")
        if p.read_text().strip() and not ast.get_docstring(ast.parse(p.read_text()))
    ]

    assert not silent


# A docstring says what a thing does or is; one that begins so makes the reader find the noun.
QUESTIONS = {"what", "whether", "who", "whom", "how", "where", "when", "which", "why"}


@pytest.mark.parametrize("folder", ["api", "jobs", "worker", "client", "deploy", "models"])
def test_no_docstring_begins_like_a_question(folder: str):
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = [
        f"{path.relative_to(ROOT)}: {text.splitlines()[0]}"
        for path in sources(folder)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, kinds) and (text := ast.get_docstring(node))
        if text.split()[0].lower().strip(",.:`") in QUESTIONS
    ]

    assert not found
