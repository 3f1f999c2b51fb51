"""A VAE that overflows in float16 stays in float32, and its pipelines need not know.

Owns one substitution: of the class of one VAE. Knows no pipeline. Invariant: what comes out of it
is what the vendor's pipeline makes, which turns it to float32 before each decoding and back after.

Why: between "before" and "after" lies a gate. The next image to come there would find float32, take
it for how things are and leave its latents in float16, and by its turn the one before it has turned
the VAE back: decoded in float16, with other bits or none that are finite. Memory: 0.16 GiB (SDXL).
"""

from __future__ import annotations

from typing import Any

import torch


def hold_in_float32(vae: Any) -> None:
    """If it is such a VAE: its numbers in float32, while it says float16 and cannot be turned."""
    if vae.dtype is not torch.float16 or not getattr(vae.config, "force_upcast", False):
        return
    vae.to(torch.float32)
    own = type(vae)
    vae.__class__ = type(own.__name__, (_Held, own), {"__module__": own.__module__})


def give_back(vae: Any) -> None:
    """Undo it: the numbers came from float16, so none is lost."""
    if isinstance(vae, _Held):
        vae.__class__ = type(vae).__mro__[2]
        vae.to(torch.float16)


class _Held(torch.nn.Module):
    """What such a VAE does otherwise."""

    @property
    def dtype(self) -> torch.dtype:
        return torch.float16

    def to(self, *args: Any, **kwargs: Any) -> Any:
        wants_a_type = any(isinstance(a, torch.dtype) for a in (*args, *kwargs.values()))
        return self if wants_a_type else super().to(*args, **kwargs)
