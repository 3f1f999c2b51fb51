"""Check numbers for NaN and infinity without waiting for the device.

Owns one question and its answer on the way. Knows no image. Invariant: asking reads and never
writes; on a CPU the answer is there at once.

Why: an answer that is waited for lets the device run dry until Python has queued the next step,
and with 16 images that are looked at in turns that was every other step.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch


class FiniteCheck:
    """A check of all floating-point numbers in `value`, under way on the device."""

    def __init__(self, value: Any) -> None:
        self._arrived: torch.cuda.Event | None = None  # None: it is there
        flags = [torch.isfinite(tensor).all() for tensor in _floats(value)]
        self._all = torch.stack(flags).all().to("cpu", non_blocking=True) if flags else None
        if flags and flags[0].is_cuda:
            self._arrived = torch.cuda.Event()
            self._arrived.record(torch.cuda.current_stream(flags[0].device))

    @property
    def answered(self) -> bool:
        """True once the result is on the CPU."""
        return self._arrived is None or self._arrived.query()

    @property
    def failed(self) -> bool:
        """True if a number is NaN or infinite; read only when `answered`."""
        return self._all is not None and not bool(self._all)


def all_finite(value: Any) -> bool:
    """Return whether all numbers are finite; waits for the device."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in _floats(value))


def _floats(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _floats(part)
