"""Z-Image: rows are lists, so that even unlike sizes and texts can share a model call."""

from __future__ import annotations

from worker.engine.profiles.base import Profile

Z_IMAGE = Profile(
    name="z_image",
    pipelines=("ZImagePipeline",),
    sets_sampler=("mu",),
    strength_takes="begun",
    image_to_image="z_image.pipeline_z_image_img2img:ZImageImg2ImgPipeline",
    inpaint="z_image.pipeline_z_image_inpaint:ZImageInpaintPipeline",
)
