"""LongCat-Image: a Flux-like transformer under Qwen2.5-VL; guidance is a second model call."""

from __future__ import annotations

from worker.engine.profiles.base import Profile

LONGCAT_IMAGE = Profile(
    name="longcat_image",
    pipelines=("LongCatImagePipeline",),
    guided="call",
    sets_sampler=("sigmas", "mu"),
    # It would draw what a language model makes of the prompt: another prompt than was asked for.
    fixed={"enable_prompt_rewrite": False},
)
