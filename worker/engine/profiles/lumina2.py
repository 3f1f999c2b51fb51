"""Lumina 2: one transformer under Gemma; guidance is a second model call."""

from __future__ import annotations

from worker.engine.profiles.base import Profile

LUMINA2 = Profile(
    name="lumina2",
    pipelines=("Lumina2Pipeline",),
    guided="call",
    sets_sampler=("sigmas", "mu"),
)
