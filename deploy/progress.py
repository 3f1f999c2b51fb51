"""A progress line: live on a terminal, one line for each change elsewhere.

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
    """Show the current step (`show`), and print lasting messages (`say`)."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._since = time.monotonic()
        self._shown = ""

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._since

    def show(self, text: str, detail: str = "") -> None:
        """Show the current step, with the seconds so far; `detail` on a terminal only."""
        if self._live:
            line = f"{text} {detail}".rstrip() + f"  ({self.seconds:.0f} s)"
            self._write(f"{CLEAR}{line[: shutil.get_terminal_size().columns - 1]}")
        elif text != self._shown:  # in a log, each step once
            self._write(f"{text}\n")
        self._shown = text

    def say(self, text: str) -> None:
        """Print a lasting line."""
        self.clear()
        self._write(f"{text}\n")

    def clear(self) -> None:
        """Erase the live line."""
        if self._live and self._shown:
            self._write(CLEAR)
        self._shown = ""

    def _write(self, text: str) -> None:
        with suppress(OSError):  # a closed terminal, a file on a full disk
            self._stream.write(text)
            self._stream.flush()
