"""Keep a VAE that overflows in float16 in float32, without a change of its pipelines.

Owns one substitution: of the class of one VAE. Knows no pipeline. Invariant: what comes out of it
is what the vendor's pipeline makes, which turns it to float32 before each decoding and back after.

Why: between "before" and "after" lies a gate. The next image would see float32 and skip its own
cast; by the time it decodes, the previous image has cast the VAE back to float16: other bits, or
none that are finite. Memory: 0.16 GiB (SDXL).
"""

from __future__ import annotations

from typing import Any

import torch


def hold_in_float32(vae: Any) -> None:
    """Hold such a VAE in float32; it still reports float16, and casts of it do nothing."""
    if vae.dtype is not torch.float16 or not getattr(vae.config, "force_upcast", False):
        return
    vae.to(torch.float32)
    own = type(vae)
    vae.__class__ = type(own.__name__, (_Held, own), {"__module__": own.__module__})


def give_back(vae: Any) -> None:
    """Undo `hold_in_float32`: the numbers came from float16, so none is lost."""
    if isinstance(vae, _Held):
        vae.__class__ = type(vae).__mro__[2]
        vae.to(torch.float16)


class _Held(torch.nn.Module):
    """The overridden methods of such a VAE."""

    @property
    def dtype(self) -> torch.dtype:
        return torch.float16

    def to(self, *args: Any, **kwargs: Any) -> Any:
        wants_a_type = any(isinstance(a, torch.dtype) for a in (*args, *kwargs.values()))
        return self if wants_a_type else super().to(*args, **kwargs)
