"""Memory of a model call: measure its peak, and recognise a full device.

Owns the measuring of a peak and the recognising of a full device. Knows no batch and no image.
Invariant: a need is what the allocator itself counted, never a guess from shapes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch.profiler import ProfilerActivity, profile

T = TypeVar("T")

# Not every full device is a torch.OutOfMemoryError: the CPU's allocator and two of NVIDIA's
# libraries say it in words.
WORDS = ("DefaultCPUAllocator", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes that a model call takes beside the weights: some anyhow, and some for each row."""

    base: int = 0
    row: int = 0

    def of(self, rows: int) -> int:
        """Return the bytes of a call of that many rows."""
        return self.base + rows * self.row

    def rows_in(self, room: int) -> int:
        """Return the rows that fit into `room` bytes; 0: not even one."""
        if self.of(1) > room:
            return 0
        return (room - self.base) // self.row if self.row else 1 << 30


UNKNOWN = Need()


def need_of(peaks: dict[int, int]) -> Need:
    """Fit a line through the bytes that calls of few and of many rows took."""
    few, many = min(peaks), max(peaks)
    if few == many:
        return Need(row=peaks[few] // few)
    row = max(0, peaks[many] - peaks[few]) // (many - few)
    return Need(base=max(0, peaks[few] - few * row), row=row)


def measured(run: Callable[[], T], device: torch.device) -> tuple[T, int]:
    """Call `run`; return its result and its peak bytes beyond those held before."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        result = run()
        return result, torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        result = run()
    return result, _peak_of(seen)


def _peak_of(seen: profile) -> int:
    """Compute the peak from the log of allocations and releases."""
    results = seen.profiler and seen.profiler.kineto_results
    assert results is not None, "the profiler has run"
    events = [event for event in results.events() if event.name() == "[memory]"]
    in_time: list[Any] = sorted(events, key=lambda event: event.start_ns())
    changes: list[int] = [event.nbytes() for event in in_time]
    return max(itertools.accumulate(changes, initial=0))


def ran_out(error: BaseException) -> bool:
    """Return whether an error means that there is no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in WORDS)


def release(error: BaseException) -> None:
    """Free the memory held by a failed call's frames, and torch's cache."""
    error.__traceback__ = error.__context__ = None
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
