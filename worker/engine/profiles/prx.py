"""PRX: one stream of attention under T5-Gemma; guidance is a second row."""

from __future__ import annotations

from worker.engine.profiles.base import Profile

PRX = Profile(
    name="prx",
    pipelines=("PRXPipeline",),
    fixed={"use_resolution_binning": False},  # it would make another size and stretch it back
)
