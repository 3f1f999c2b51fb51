"""Seed a VAE's random encoding by the image's own seed, if the pipeline passes no generator.

Owns that one substitution. Knows no batch. Invariant: a pipeline that brings its generator gets
the very numbers that it would get without it.

Why: encoding an image is a random draw. SD3's ControlNet pipeline uses torch's global generator
for it: the same request gave another image each time, in the vendor's own pipeline as well
(0.42.1, a tiny random model: up to 6 of 255, in two of three values). With the seed, the numbers
are those of the vendor's pipeline right after `torch.manual_seed(seed)`.
"""

from __future__ import annotations

from typing import Any

import torch

UNSEEDED = frozenset({"StableDiffusion3ControlNetPipeline"})


def seed_draws(shell: Any, seed: int) -> None:
    """Give an image's pipeline shell a VAE that draws from its seed, if it needs one."""
    if type(shell).__name__ in UNSEEDED:
        # Through __dict__: a pipeline's own __setattr__ would note the class in its configuration.
        shell.__dict__["vae"] = _SeededVae(shell.vae, seed)


class _SeededVae:
    """The same VAE; its encodings are drawn from the seed unless a generator is passed."""

    def __init__(self, vae: Any, seed: int) -> None:
        self._vae = vae
        self._generator = torch.Generator("cpu").manual_seed(seed)

    def encode(self, *args: Any, **kwargs: Any) -> Any:
        encoded = self._vae.encode(*args, **kwargs)
        draw = encoded.latent_dist.sample
        encoded.latent_dist.sample = lambda generator=None: draw(generator or self._generator)
        return encoded

    def __getattr__(self, name: str) -> Any:
        return getattr(self._vae, name)
