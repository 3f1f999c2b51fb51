"""The fenced blocks of the documents, and which of them are run.

Owns the table of those that are not, each with its reason. Invariant (test_blocks.py): a block
that is neither run nor in a table fails, and so does a row of a table that fits no block.
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

RUN = ("sh", "python")
# Languages that are no commands: each is read by what it is written for, in a test of its own.
READ_ELSEWHERE = {
    "text": "a drawing, or bytes on the wire",
    "json": "an answer or a file, not a command",
    "toml": "part of a model file",
    "yaml": "part of a configuration of another program",
    "nginx": "part of a configuration of another program",
    "caddy": "part of a configuration of another program",
}
# (page, the block's first line that is no comment): why it is not run, and what tries it instead.
STARTS = "starts what the blocks after it need; they run on the same, from tests/docs/conftest.py"
NOT_RUN = {
    ("README.md", "python3 deploy up"): f"{STARTS}; and `deploy test` is this very run",
    ("README.md", "uv venv"): "fills an environment: tests/deploy/test_installer.py runs it",
    ("docs/webhooks.md", "PRINTWORKS_WEBHOOK_SCHEMES=https,http"): f"{STARTS}, with its settings",
    ("docs/api.md", "PYTHONPATH=. PRINTWORKS_WORKER_IMAGE_CHECKER=my_policy:check"): (
        f"{STARTS}, with its settings"
    ),
    ("docs/api.md", """curl -s $API/v1/jobs -d '{"prompt": "a house at dusk", "control\""""): (
        "no model of the clone has a ControlNet: tests/e2e/test_control.py sends the like to one"
    ),
    (
        "docs/operations.md",
        "helm install",
    ): "needs a cluster; tests/deploy renders it",
    ("docs/operations.md", "kubectl -n images create secret"): "needs a cluster",
    ("docs/operations.md", "for gpu in 0 1 2 3"): "needs four GPUs",
    ("docs/operations.md", "redis-cli CONFIG SET"): "tests/fault/test_backup.py does the same",
    ("models/demo/README.md", ".venv/bin/python -m pip install -c deploy/lock.txt matplotlib"): (
        "trains for hours; tests/demo tries the parts"
    ),
}
_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\S*)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL
)
_SAVED_AS = re.compile(r"# ([a-z_]+\.py)\n")


@dataclass(frozen=True)
class Block:
    """One fenced block, as it stands in a page."""

    page: str
    line: int
    language: str
    text: str

    @property
    def name(self) -> str:
        """Return where it stands."""
        return f"{self.page}:{self.line}"

    @property
    def file(self) -> str | None:
        """Return the file that a Python block is to be saved as, by its first line."""
        saved = _SAVED_AS.match(self.text) if self.language == "python" else None
        return saved[1] if saved else None

    @property
    def reason(self) -> str | None:
        """Return why it is not run; None: it is."""
        if self.language not in RUN:
            return READ_ELSEWHERE.get(self.language)
        return next((why for row, why in NOT_RUN.items() if self.is_in(row)), None)

    def is_in(self, row: tuple[str, str]) -> bool:
        """Return True if a row of the table names this block."""
        lines = (line for line in self.text.splitlines() if line and not line.startswith("#"))
        return self.page == row[0] and next(lines).startswith(row[1])


def pages(root: Path) -> list[Path]:
    """Return every document that a reader may type from."""
    folders = (root.glob("*.md"), (root / "docs").rglob("*.md"), (root / "benchmarks").glob("*.md"))
    return sorted(
        {page for folder in folders for page in folder} | {root / "models/demo/README.md"}
    )


def blocks_of(root: Path, page: Path) -> list[Block]:
    """Return the blocks of a page, in their order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            page=str(page.relative_to(root)),
            line=text.count("\n", 0, found.start()) + 1,
            language=found["language"],
            text=textwrap.dedent(found["text"]),
        )
        for found in _FENCE.finditer(text)
    ]


def all_blocks(root: Path) -> list[Block]:
    """Return the blocks of every page."""
    return [block for page in pages(root) for block in blocks_of(root, page)]
