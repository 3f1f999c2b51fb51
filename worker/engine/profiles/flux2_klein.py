"""Flux.2 Klein: guidance is a second model call, unless the model is distilled."""

from __future__ import annotations

from worker.engine.profiles.base import Profile

FLUX2_KLEIN = Profile(
    name="flux2_klein",
    pipelines=("Flux2KleinPipeline",),
    guided="call",
    sets_sampler=("sigmas", "mu"),
    strength_takes="begun",
    inpaint="flux2.pipeline_flux2_klein_inpaint:Flux2KleinInpaintPipeline",
)
