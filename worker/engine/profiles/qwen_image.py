"""Qwen-Image: guidance is a second model call, and needs some negative prompt to be on at all."""

from __future__ import annotations

from worker.engine.profiles.base import Profile

QWEN_IMAGE = Profile(
    name="qwen_image",
    pipelines=("QwenImagePipeline",),
    guidance="true_cfg_scale",
    guided="call",
    empty_negative=" ",
    sets_sampler=("sigmas", "mu"),
    strength_takes="begun",
    image_to_image="qwenimage.pipeline_qwenimage_img2img:QwenImageImg2ImgPipeline",
    inpaint="qwenimage.pipeline_qwenimage_inpaint:QwenImageInpaintPipeline",
    control="qwenimage.pipeline_qwenimage_controlnet:QwenImageControlNetPipeline",
)
