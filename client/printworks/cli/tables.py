"""Output of lists: a table for people, whole lines for a pipe, or JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from printworks.types import Answer

PIPE_WIDTH = 10_000  # nothing is cut for a program that reads it; rich takes 80 columns else


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    found: Sequence[Answer],
    *,
    as_json: bool,
) -> None:
    """Print `rows` under `head`, or with `as_json` the answers `found` in full.

    On a terminal the first column, which is what one copies, is never cut, and a row is one line.
    """
    if as_json:
        print(json.dumps([one.model_dump(mode="json") for one in found]))
        return
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, width=PIPE_WIDTH)
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for index, name in enumerate(head):
        shown.add_column(name, no_wrap=True, overflow="ellipsis" if index else "fold")
    if head:
        shown.columns[0].min_width = max(map(len, [head[0], *(row[0] for row in rows)]), default=0)
    for row in rows:
        shown.add_row(*row)
    console.print(shown)
