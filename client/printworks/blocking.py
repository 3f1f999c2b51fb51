"""Pauses and file writes, each as an asynchronous and a blocking function.

Owns the two pairs. client/generate_sync.py generates `client.py` from `async_client.py` and
replaces the first function of a pair with the second.
"""

from __future__ import annotations

import time
from pathlib import Path

import anyio


async def async_pause(seconds: float) -> None:
    """Let other tasks run for `seconds`."""
    await anyio.sleep(seconds)


def pause(seconds: float) -> None:
    """Block the calling thread for `seconds`."""
    time.sleep(seconds)  # noqa: TID251 - between two attempts; there is nothing to wait for


async def async_write(path: Path, data: bytes) -> None:
    """Write a file in a thread. Raises OSError."""
    await anyio.Path(path).write_bytes(data)


def write(path: Path, data: bytes) -> None:
    """Write a file. Raises OSError."""
    path.write_bytes(data)
