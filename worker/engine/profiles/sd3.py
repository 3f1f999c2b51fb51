"""Stable Diffusion 3 and 3.5: a transformer, three text encoders, straight flow."""

from __future__ import annotations

from worker.engine.profiles.base import Profile

SD3 = Profile(
    name="sd3",
    pipelines=("StableDiffusion3Pipeline",),
    strength_takes="begun",
    image_to_image="stable_diffusion_3.pipeline_stable_diffusion_3_img2img:StableDiffusion3Img2ImgPipeline",
    inpaint="stable_diffusion_3.pipeline_stable_diffusion_3_inpaint:StableDiffusion3InpaintPipeline",
    control="controlnet_sd3.pipeline_stable_diffusion_3_controlnet:StableDiffusion3ControlNetPipeline",
)
