"""Z-Image: rows are lists, and texts of unlike lengths meet where its padding is alike."""

from __future__ import annotations

from worker.engine.profiles.base import Profile

Z_IMAGE = Profile(
    name="z_image",
    pipelines=("ZImagePipeline",),
    padded_to=32,
    sets_sampler=("mu",),
    strength_takes="begun",
    image_to_image="z_image.pipeline_z_image_img2img:ZImageImg2ImgPipeline",
    inpaint="z_image.pipeline_z_image_inpaint:ZImageInpaintPipeline",
)
