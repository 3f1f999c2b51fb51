"""Stable Diffusion XL, its Turbo and LCM kin: two text encoders, size and crop as conditions."""

from __future__ import annotations

from worker.engine.profiles.base import Profile

SDXL = Profile(
    name="sdxl",
    pipelines=("StableDiffusionXLPipeline",),
    load={"add_watermarker": False},  # an invisible mark would change the pixels we hash
    image_to_image="stable_diffusion_xl.pipeline_stable_diffusion_xl_img2img:StableDiffusionXLImg2ImgPipeline",
    inpaint="stable_diffusion_xl.pipeline_stable_diffusion_xl_inpaint:StableDiffusionXLInpaintPipeline",
    control="controlnet.pipeline_controlnet_sd_xl:StableDiffusionXLControlNetPipeline",
    control_image_to_image="controlnet.pipeline_controlnet_sd_xl_img2img:StableDiffusionXLControlNetImg2ImgPipeline",
    control_inpaint="controlnet.pipeline_controlnet_inpaint_sd_xl:StableDiffusionXLControlNetInpaintPipeline",
)
