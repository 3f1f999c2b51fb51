"""Every block of the documents, typed as it stands: it works, or a table says why not."""

from __future__ import annotations

import re
import shutil
import sys

import pytest
from PIL import Image as Pillow

from jobs.settings import ROOT
from tests.docs.blocks import NOT_RUN, READ_ELSEWHERE, RUN, Block, all_blocks, blocks_of, pages
from tests.docs.conftest import Reader
from tests.e2e.running import Up
from tests.helpers import tool_missing

TO_RUN = [block for block in all_blocks(ROOT) if not block.reason]
PYTHON = [block for block in TO_RUN if block.language == "python" and not block.file]
SHELL = sorted({block.page for block in TO_RUN if block.language == "sh"})

pytestmark = pytest.mark.timeout(300)


def test_every_block_says_what_it_is():
    unknown = [b.name for b in all_blocks(ROOT) if b.language not in {*RUN, *READ_ELSEWHERE}]

    assert not unknown, "a block has a language: sh and python are run, text is neither"


def test_no_block_is_left_out_that_is_not_there():
    rows = [row for row in NOT_RUN if not any(block.is_in(row) for block in all_blocks(ROOT))]

    assert not rows


def test_the_documents_name_the_service_and_the_key_alike():
    """One who reads two pages in one terminal must not set a second variable for the same thing."""
    texts = {block.name: block.text for block in all_blocks(ROOT) if block.language == "sh"}
    others = ("$URL", "$HOST", "$TOKEN", "$PRINTWORKS_KEY", "localhost:8000")

    assert not {name for name, text in texts.items() if any(other in text for other in others)}
    assert all("API=" in text for text in first_of(texts, "$API").values())


def first_of(texts: dict[str, str], variable: str) -> dict[str, str]:
    """The first block of each page that uses a variable."""
    found: dict[str, str] = {}
    for name, text in texts.items():
        if variable in text:
            found.setdefault(name.split(":")[0], text)
    return found


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.name)
def test_a_python_block_runs(block: Block, reader: Reader, service: Up):
    assert reader.types(block.text, [sys.executable, "-c"]) is not None


@pytest.mark.parametrize("page", SHELL)
def test_the_shell_blocks_of_a_page_run_in_their_order(page: str, reader: Reader, service: Up):
    for tool in ("bash", "curl", "jq"):
        if shutil.which(tool) is None:
            tool_missing(f"no {tool}: `apt install {tool}`")
    blocks = [b for b in blocks_of(ROOT, ROOT / page) if b.language == "sh" and not b.reason]

    script = "\n".join(block.text for block in blocks)

    reader.types(script, ["bash", "-euxo", "pipefail", "-c"])

    for name in re.findall(r"-o (\S+)", script):
        saved = reader.folder / name
        for file in saved.glob("*.png") if saved.is_dir() else [saved]:
            with Pillow.open(file) as image:
                assert min(image.size) >= 64, f"{file} is no image"


def test_every_page_is_looked_at():
    found = {str(page.relative_to(ROOT)) for page in pages(ROOT)}

    assert {"README.md", "docs/api.md", "docs/webhooks.md", "models/demo/README.md"} <= found
