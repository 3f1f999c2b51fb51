"""Logs of services: for each service one file of bounded size, and one older part.

Owns the bound. A child writes into its file itself, so the file stays and is emptied. Invariant:
whatever a service prints, its two files hold about twice MOST_BYTES, and a full disk gets space.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

MOST_BYTES = 8 * 2**20  # a service that wrote a traceback for each connection filled a disk
TAIL_BYTES = 64 * 1024


def bound(log: Path, most_bytes: int = MOST_BYTES) -> None:
    """Empty a log larger than `most_bytes`, and keep its end as NAME.1. Raises OSError.

    The log must be open for appending (O_APPEND), so that its writer goes on at the new end.
    Lines that are written in between the two steps are lost.
    """
    with suppress(FileNotFoundError):
        if log.stat().st_size <= most_bytes:
            return
        with log.open("rb") as whole:
            whole.seek(-most_bytes, os.SEEK_END)
            end = whole.read(most_bytes)
        os.truncate(log, 0)  # first, for there may be no room for the other
        log.with_name(f"{log.name}.1").write_bytes(end)


def tail(log: Path, lines: int = 15) -> str:
    """Return the last lines of a log; empty without a log."""
    with suppress(FileNotFoundError), log.open("rb") as whole:
        whole.seek(0, os.SEEK_END)
        whole.seek(-min(whole.tell(), TAIL_BYTES), os.SEEK_END)
        return "\n".join(whole.read().decode(errors="replace").splitlines()[-lines:])
    return ""
