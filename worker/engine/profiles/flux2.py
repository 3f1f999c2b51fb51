"""Flux.2: guidance is an input of the model, one row an image; it knows no negative prompt."""

from __future__ import annotations

from worker.engine.profiles.base import Profile

FLUX2 = Profile(
    name="flux2",
    pipelines=("Flux2Pipeline",),
    guided="input",
    sets_sampler=("sigmas", "mu"),
)
