"""Flux.1: guidance is an input of the model, one row an image; positions are shared."""

from __future__ import annotations

from worker.engine.profiles.base import Profile

FLUX = Profile(
    name="flux",
    pipelines=("FluxPipeline",),
    guided="input",
    sets_sampler=("sigmas", "mu"),
    strength_takes="begun",
    image_to_image="flux.pipeline_flux_img2img:FluxImg2ImgPipeline",
    inpaint="flux.pipeline_flux_inpaint:FluxInpaintPipeline",
    control="flux.pipeline_flux_controlnet:FluxControlNetPipeline",
    control_image_to_image="flux.pipeline_flux_controlnet_image_to_image:FluxControlNetImg2ImgPipeline",
    control_inpaint="flux.pipeline_flux_controlnet_inpainting:FluxControlNetInpaintPipeline",
)
