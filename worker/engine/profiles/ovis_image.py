"""Ovis-Image: a Flux-like transformer under Qwen3; guidance is a second model call."""

from __future__ import annotations

from worker.engine.profiles.base import Profile

OVIS_IMAGE = Profile(
    name="ovis_image",
    pipelines=("OvisImagePipeline",),
    guided="call",
    sets_sampler=("sigmas", "mu"),
)
