"""Options of the command `up`. Knows nothing that would have to be installed first."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Options:
    """Options of one `up`, as given on the command line."""

    port: int | None  # None: 8000, or any free one where that is taken; 0: any free one
    data: Path
    workers: int
    first_picture: bool
    once: str | None
    out: Path
