"""Memory layout of rows, which chooses kernels beside shape, dtype and values.

Owns the rules by which rows are laid out before they go through a network. Knows no call and no
signature. Invariant: `settled`, `together` and `padded` give rows that lie alike whatever they
came from: one order of dimensions, no gaps, an aligned start.

Why: a convolution takes another kernel for channels_last rows, a product of matrices another way
for rows with gaps, a reduction on a GPU another order of adding for a start that is not aligned.
An input image becomes channels_last latents (its pixels lie so in memory), and padding
had made them contiguous: the same image had other bits in a batch than alone.

The order in which a pipeline gives its rows is kept, so that an image alone has the bits of a
plain call; what a batch cannot keep (gaps, a lazy conjugate) is made contiguous for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch

ALIGNED = 64  # bytes: where torch's own memory begins on a CPU (512 on CUDA)


def strides_of(rows: torch.Tensor) -> tuple[int, ...]:
    """Return the strides of (B, ...), in elements, as laid out in any batch."""
    return _kept(rows.shape, rows.stride())


def settled(rows: torch.Tensor) -> torch.Tensor:
    """Return (B, ...) in the layout of a batch: the tensor itself if it has that, else a copy."""
    if rows.stride() == strides_of(rows) and _plain(rows):
        return rows
    return _laid(rows, len(rows), strides_of(rows))


def together(pieces: Sequence[torch.Tensor]) -> torch.Tensor:
    """Join (B, ...) tensors of one order along their rows, in fresh memory."""
    strides = strides_of(pieces[0])
    joined = torch.cat(list(pieces))
    # cat knows contiguous and channels_last; it decides by all pieces, one row's included.
    return joined if joined.stride() == strides else _laid(joined, len(joined), strides)


def padded(rows: torch.Tensor, width: int) -> torch.Tensor:
    """Return (width, ...): these rows, and the first of them again as often as it takes.

    Zeros could turn to NaN, and cost slow paths for nothing.
    """
    if len(rows) == width:
        return settled(rows)
    wide = rows.new_empty_strided((width, *rows.shape[1:]), strides_of(rows))
    wide[: len(rows)] = rows
    wide[len(rows) :] = rows[:1]
    return wide


def lies_alike(rows: torch.Tensor, other: torch.Tensor) -> bool:
    """Return whether two tensors of one shape have the same strides and device."""
    return rows.stride() == other.stride() and rows.device == other.device


def _plain(rows: torch.Tensor) -> bool:
    return not (rows.data_ptr() % ALIGNED or rows.is_conj() or rows.is_neg())


def _laid(rows: torch.Tensor, count: int, strides: tuple[int, ...]) -> torch.Tensor:
    return rows.new_empty_strided((count, *rows.shape[1:]), strides).copy_(rows)


@lru_cache(maxsize=4096)
def _kept(shape: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, ...]:
    """Return a row's own strides if without gaps and overlaps, else contiguous ones."""
    _, *sizes = shape
    _, *steps = strides
    span = 1
    for step, size in sorted((s, n) for s, n in zip(steps, sizes, strict=True) if n != 1):
        if step != span:
            return torch.empty((1, *sizes), device="meta").stride()
        span *= size
    return span, *steps
