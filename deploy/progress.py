"""One line that says what is going on: live on a terminal, a line a change elsewhere.

Owns the terminal's last line (stderr), so that stdout stays for results.
"""

from __future__ import annotations

import shutil
import sys
import time
from contextlib import suppress
from typing import TextIO

CLEAR = "\r\x1b[2K"  # back to the first column, and erase the line


class Progress:
    """Say what is happening now (`show`), and what has happened (`say`)."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._since = time.monotonic()
        self._shown = ""

    @property
    def seconds(self) -> float:
        """Since this was made."""
        return time.monotonic() - self._since

    def show(self, text: str, detail: str = "") -> None:
        """What is happening now, with the seconds so far. A log is spared the `detail`."""
        if self._live:
            line = f"{text} {detail}".rstrip() + f"  ({self.seconds:.0f} s)"
            self._write(f"{CLEAR}{line[: shutil.get_terminal_size().columns - 1]}")
        elif text != self._shown:  # a log wants each thing once
            self._write(f"{text}\n")
        self._shown = text

    def say(self, text: str) -> None:
        """A line that stays."""
        self.clear()
        self._write(f"{text}\n")

    def clear(self) -> None:
        """Take the live line away."""
        if self._live and self._shown:
            self._write(CLEAR)
        self._shown = ""

    def _write(self, text: str) -> None:
        with suppress(OSError):  # a terminal that is gone, a file on a full disk: nobody reads it
            self._stream.write(text)
            self._stream.flush()
