"""Kernels that give a row other bits in a wider batch. Needs torch alone, and less than a second.

If `gpu_bits` finds classes, this says where they come from: a product with few rows, a
convolution, a norm or attention, at the shapes of Stable Diffusion and Flux.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch.nn import functional

from benchmarks.gpu_parts import Part

WIDTHS = (1, 2, 3, 4, 6, 8, 16)
Kernel = tuple[tuple[int, ...], Callable[[torch.Tensor], torch.Tensor]]


def kernel_parts(device: torch.device, *, small: bool) -> Iterator[Part]:
    """One a type."""
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        name = str(dtype).removeprefix("torch.")
        run = partial(kernel_rows, device, dtype, small=small)
        yield Part("kernels", {"dtype": name}, run, 20, needs="torch")


def kernel_rows(device: torch.device, dtype: torch.dtype, *, small: bool) -> list[dict[str, Any]]:
    """One row a kernel: its classes over the widths."""
    generator = torch.Generator().manual_seed(0)
    rows: list[dict[str, Any]] = []
    with torch.no_grad():
        for name, (shape, run) in _kernels(device, dtype, generator, small=small).items():
            x = torch.randn(max(WIDTHS), *shape, generator=generator).to(device, dtype)
            seen: list[torch.Tensor] = []
            for width in WIDTHS:
                out = run(x[:width])[0]
                if not any(torch.equal(out, known) for known in seen):
                    seen.append(out.clone())
            classes = {w: _letter(run(x[:w])[0], seen) for w in WIDTHS}
            rows.append(
                {
                    "kernel": name,
                    "classes": " ".join(f"{w}:{letter}" for w, letter in classes.items()),
                    "max_difference": max(
                        (float((seen[0].float() - s.float()).abs().max()) for s in seen[1:]),
                        default=0.0,
                    ),
                }
            )
    return rows


def _letter(out: torch.Tensor, seen: list[torch.Tensor]) -> str:
    found = [i for i, known in enumerate(seen) if torch.equal(out, known)]
    return "abcdefghij"[found[0]] if found else "unsteady"


def _kernels(
    device: torch.device, dtype: torch.dtype, generator: torch.Generator, *, small: bool
) -> dict[str, Kernel]:
    wide, tokens, channels, side = (64, 32, 64, 8) if small else (1280, 4096, 320, 64)

    def weight(*shape: int) -> torch.Tensor:
        made = torch.randn(*shape, generator=generator) / shape[1] ** 0.5
        return made.to(device, dtype)

    square, taps = weight(wide, wide), weight(channels, channels, 3, 3)
    bias = weight(1, wide)[0]

    def attention(x: torch.Tensor) -> torch.Tensor:
        heads = x.unflatten(-1, (8, -1)).transpose(1, 2)
        return functional.scaled_dot_product_attention(heads, heads, heads)

    def convolved(x: torch.Tensor) -> torch.Tensor:
        return functional.conv2d(x, taps, padding=1)

    last = torch.channels_last
    return {
        "linear, 1 token a row": ((wide,), lambda x: functional.linear(x, square, bias)),
        "linear, many tokens": ((tokens, wide), lambda x: functional.linear(x, square, bias)),
        "convolution 3x3": ((channels, side, side), convolved),
        "convolution 3x3, channels_last": (
            (channels, side, side),
            lambda x: convolved(x.contiguous(memory_format=last)),
        ),
        "group norm": ((channels, side, side), lambda x: functional.group_norm(x, 32)),
        "layer norm": ((tokens, wide), lambda x: functional.layer_norm(x, (wide,))),
        "attention": ((tokens // 4, wide // 2), attention),
    }
