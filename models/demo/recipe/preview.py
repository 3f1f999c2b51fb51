"""Pictures of prompts, in batches, and grids of pictures."""

from collections.abc import Sequence
from typing import Final

import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_euler_ancestral_discrete import EulerAncestralDiscreteScheduler
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from diffusers.schedulers.scheduling_heun_discrete import HeunDiscreteScheduler
from diffusers.schedulers.scheduling_lms_discrete import LMSDiscreteScheduler
from diffusers.schedulers.scheduling_pndm import PNDMScheduler
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from PIL import Image

SAMPLERS: Final = {
    "dpmpp_2m": DPMSolverMultistepScheduler,
    "euler": EulerDiscreteScheduler,
    "euler_a": EulerAncestralDiscreteScheduler,
    "ddim": DDIMScheduler,
    "heun": HeunDiscreteScheduler,
    "lms": LMSDiscreteScheduler,
    "pndm": PNDMScheduler,
    "unipc": UniPCMultistepScheduler,
}
STEPS: Final = 25
GUIDANCE: Final = 4.0

PROMPTS: Final = (
    "a red bicycle on a cobblestone street", "a large blue cat on a wooden floor",
    "a small yellow duck on a blue ocean", "a green robot in front of a brick wall",
    "a purple car on a snowy field", "a white rabbit on a grass field",
    "a pink rocket in a night sky", "an orange balloon in a cloudy sky",
    "a black crown on a checkered floor", "a brown guitar on a sandy beach",
    "a red house on a snowy field", "a blue tree in a sunset sky",
    "a small green key in front of a polka dot wall", "a large pink fish on a blue ocean",
    "a yellow bus on a cobblestone street", "a purple umbrella on a sandy beach",
    "a white ghost in a night sky", "a big orange elephant on a meadow",
    "a red apple next to a green teapot on a wooden floor",
    "a small blue cat next to a yellow umbrella on a snowy field",
    "a pink owl to the left of a black hat on a grass field",
    "a white boat and a red star on a blue ocean",
    "a green turtle beside a brown mushroom on a sandy beach",
    "a large yellow butterfly in front of a brick wall",
)  # fmt: skip


@torch.no_grad()
def draw(  # noqa: PLR0913 - one argument for each lever of a picture
    pipeline: StableDiffusionPipeline,
    prompts: Sequence[str],
    *,
    seed: int = 0,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
    negative: str | None = None,
    size: tuple[int, int] = (128, 128),
    batch: int = 24,
) -> list[Image.Image]:
    """Generate one image for each prompt; image k has seed `seed + k`."""
    images: list[Image.Image] = []
    for start in range(0, len(prompts), batch):
        part = list(prompts[start : start + batch])
        seeds = range(seed + start, seed + start + len(part))
        images += pipeline(
            part,
            negative_prompt=None if negative is None else [negative] * len(part),
            num_inference_steps=steps,
            guidance_scale=guidance,
            height=size[0],
            width=size[1],
            generator=[torch.Generator().manual_seed(s) for s in seeds],
        ).images
    return images


def grid(images: Sequence[Image.Image], columns: int = 8, gap: int = 2) -> Image.Image:
    width, height = images[0].width + gap, images[0].height + gap
    sheet = Image.new("RGB", (columns * width, -(-len(images) // columns) * height), "white")
    for k, image in enumerate(images):
        sheet.paste(image, (k % columns * width, k // columns * height))
    return sheet
