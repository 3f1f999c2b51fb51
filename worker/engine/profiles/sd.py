"""Stable Diffusion 1.x and 2.x: one UNet, one CLIP, guidance as a second row."""

from __future__ import annotations

from worker.engine.profiles.base import Profile

STABLE_DIFFUSION = Profile(
    name="sd",
    pipelines=("StableDiffusionPipeline",),
    # The checker would blacken pictures by a threshold that nobody here chose.
    load={"safety_checker": None, "requires_safety_checker": False},
    image_to_image="stable_diffusion.pipeline_stable_diffusion_img2img:StableDiffusionImg2ImgPipeline",
    inpaint="stable_diffusion.pipeline_stable_diffusion_inpaint:StableDiffusionInpaintPipeline",
    control="controlnet.pipeline_controlnet:StableDiffusionControlNetPipeline",
    control_image_to_image="controlnet.pipeline_controlnet_img2img:StableDiffusionControlNetImg2ImgPipeline",
    control_inpaint="controlnet.pipeline_controlnet_inpaint:StableDiffusionControlNetInpaintPipeline",
)
