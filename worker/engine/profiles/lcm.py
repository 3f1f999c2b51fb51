"""Latent consistency of Stable Diffusion 1: guidance is an input of the model."""

from __future__ import annotations

from worker.engine.profiles.base import Profile

LCM = Profile(
    name="lcm",
    pipelines=("LatentConsistencyModelPipeline",),
    guided="input",
    samplers=("lcm",),  # it hands the sampler a step count of its training that is None for others
    # The checker would blacken pictures by a threshold that nobody here chose.
    load={"safety_checker": None, "requires_safety_checker": False},
    strength_takes="all",
    image_to_image="latent_consistency_models.pipeline_latent_consistency_img2img:LatentConsistencyModelImg2ImgPipeline",
)
