"""AuraFlow: a large open flow transformer."""

from __future__ import annotations

from worker.engine.profiles.base import Profile

AURA_FLOW = Profile(
    name="aura_flow",
    pipelines=("AuraFlowPipeline",),
)
