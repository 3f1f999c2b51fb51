"""Chroma: Flux without its guidance input; guidance is a second model call."""

from __future__ import annotations

from worker.engine.profiles.base import Profile

CHROMA = Profile(
    name="chroma",
    pipelines=("ChromaPipeline",),
    guided="call",
    sets_sampler=("sigmas", "mu"),
    strength_takes="begun",
    image_to_image="chroma.pipeline_chroma_img2img:ChromaImg2ImgPipeline",
    inpaint="chroma.pipeline_chroma_inpainting:ChromaInpaintPipeline",
)
