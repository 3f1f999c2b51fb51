"""One `up` on the shipped model, as the documents' first lines start it, and a reader's folder.

Owns what stands for the reader's machine: the ports that the documents name are taken by others
here, so that free ones are put in their place; nothing else of a block is changed.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from deploy.service import free_port
from tests.docs.blocks import Block, all_blocks
from tests.e2e.running import Up

BLOCK_S = 150.0
RECEIVER_PORT = "8600"


class Reader:
    """Somebody who types what the documents say, in the clone's folder."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.folder = folder
        self.ports = {"8000": "8000", RECEIVER_PORT: str(free_port())}
        for entry in root.iterdir():  # what a block writes must not land in the clone itself
            if entry.name != ".venv":
                (folder / entry.name).symlink_to(entry)
        (folder / ".venv").symlink_to(sys.prefix)
        # an answer of 400 or more ends the block: the documents show no call that fails
        (folder / ".curlrc").write_text("fail\nshow-error\n")

    def as_here(self, text: str) -> str:
        """Return a block's text with the ports of this machine."""
        for written, here in self.ports.items():
            text = re.sub(rf"\b{written}\b", here, text)
        return text

    def settings(self, blocks: list[Block]) -> dict[str, str]:
        """Return the settings that the documents have `up` started with."""
        lines = [b.text for b in blocks if b.language == "sh" and "python3 deploy up" in b.text]
        found = re.findall(r"\b(PRINTWORKS_\w+|PYTHONPATH)=(\S+)", self.as_here("\n".join(lines)))
        return dict(found) | {"PYTHONPATH": str(self.folder)}

    def save(self, blocks: list[Block]) -> None:
        """Save what a block says is a file."""
        for block in blocks:
            if block.file:
                (self.folder / block.file).write_text(self.as_here(block.text))

    def types(self, script: str, program: list[str]) -> str:
        """Run a script to its end; return what it said. What it left running is ended."""
        environ = {n: v for n, v in os.environ.items() if not n.startswith("PRINTWORKS_")}
        environ |= {
            "CURL_HOME": str(self.folder),
            "PYTHONPATH": f"{self.folder}:{self.folder}/client",
        }
        log = self.folder / "said.log"  # no pipe: a receiver in the background would hold it open
        with log.open("w") as out:
            process = subprocess.Popen(
                [*program, self.as_here(script)],
                cwd=self.folder,
                env=environ,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                code = process.wait(BLOCK_S)
            except subprocess.TimeoutExpired:
                code = f"nothing after {BLOCK_S:.0f} s"
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        said = log.read_text()
        assert code == 0, f"{code}:\n{said}"
        return said


@pytest.fixture(scope="session")
def reader(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Reader:
    """The reader, in a folder that looks like the clone."""
    reader = Reader(root, tmp_path_factory.mktemp("clone"))
    reader.save(all_blocks(root))
    return reader


@pytest.fixture(scope="session")
def service(root: Path, reader: Reader, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """A running `up`, with the settings that the documents name."""
    folder = tmp_path_factory.mktemp("documents")
    settings = reader.settings(all_blocks(root))
    up = Up(folder / "data", root / "models/models.toml", "--no-first-picture", more=settings)
    up.wait_ready()
    (reader.folder / "data").symlink_to(folder / "data")  # where `up` in the clone has its key
    reader.ports["8000"] = up.said["api_url"].rsplit(":", 1)[1]
    yield up
    up.end()
