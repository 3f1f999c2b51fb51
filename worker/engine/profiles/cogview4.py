"""CogView 4: sizes and crop as conditions; guidance is a second model call."""

from __future__ import annotations

from worker.engine.profiles.base import Profile

COGVIEW4 = Profile(
    name="cogview4",
    pipelines=("CogView4Pipeline",),
    guided="call",
    sets_sampler=("timesteps", "sigmas", "mu"),
)
