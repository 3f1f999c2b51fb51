"""Output of lists: a table for people, or JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from printworks.types import Answer


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    found: Sequence[Answer],
    *,
    as_json: bool,
) -> None:
    """Print `rows` under `head`, or with `as_json` the answers `found` in full."""
    if as_json:
        print(json.dumps([one.model_dump(mode="json") for one in found]))
        return
    shown = Table(*head, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        shown.add_row(*row)
    console = Console(highlight=False, markup=False)
    console.print(shown, no_wrap=not console.is_terminal)
