"""Picture to picture and repainting: the family's own pipelines, in the same batch."""

from __future__ import annotations

import functools

import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_img2img import (
    StableDiffusionImg2ImgPipeline,
)
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_inpaint import (
    StableDiffusionInpaintPipeline,
)
from PIL import Image

from tests.engine.runs import pixels, plain, run
from tests.engine.tiny import SIDE, a_model, a_request, tiny_pipeline
from worker.engine.image_call import to_pixels
from worker.engine.model import Model
from worker.messages import Failed, ImageRequest, Pixels

IMAGE = Pixels(width=SIDE, height=SIDE, data=bytes(range(256)) * 3)
MASK = Pixels(width=SIDE, height=SIDE, data=b"\x00\x00\x00\xff\xff\xff" * (SIDE * SIDE // 2))


def plain_variant(model: Model, cls: type, request: ImageRequest, **more) -> bytes:
    generator = torch.Generator().manual_seed(request.seed)
    parts = dict(model.pipeline.components)
    parts["scheduler"] = model.samplers.take(request.sampler, generator)
    pipeline = cls(**parts, requires_safety_checker=False)
    made = pipeline(
        prompt=request.prompt,
        image=Image.frombytes("RGB", (SIDE, SIDE), IMAGE.data),
        strength=request.strength,
        num_inference_steps=request.steps,
        guidance_scale=request.guidance_scale,
        generator=generator,
        output_type="np",
        **more,
    )
    return to_pixels(made.images[0]).data


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m", "euler_a"])
def test_a_picture_from_a_picture_in_company_has_the_bits_of_its_plain_pipeline(
    model: Model, sampler: str
):
    request = a_request(sampler=sampler, image=IMAGE, strength=0.6, steps=8)
    neighbour = a_request(seed=1)

    ends = run(model, [neighbour, request])

    assert pixels(ends[request.id]) == plain_variant(model, StableDiffusionImg2ImgPipeline, request)
    assert pixels(ends[neighbour.id]) == plain(model, neighbour)
    assert ends[request.id].calls == model.call_for(request).expected_calls


def test_a_repainted_picture_in_company_has_the_bits_of_its_plain_pipeline(model: Model):
    request = a_request(image=IMAGE, mask=MASK, strength=1.0)
    mask = Image.frombytes("RGB", (SIDE, SIDE), MASK.data).convert("L")

    ends = run(model, [a_request(seed=1), request])

    expected = plain_variant(
        model, StableDiffusionInpaintPipeline, request,
        mask_image=mask, width=SIDE, height=SIDE,
    )  # fmt: skip
    assert pixels(ends[request.id]) == expected


def test_a_picture_of_another_size_is_refused_in_words(model: Model):
    request = a_request(image=IMAGE, width=24)

    ends = run(model, [request])

    assert isinstance(ends[request.id], Failed)
    assert ends[request.id].code == "unservable"
    assert "16x16" in ends[request.id].message


class _RoundingPipeline(StableDiffusionPipeline):
    """Makes the nearest size that it likes, as HunyuanDiT's does."""

    @functools.wraps(StableDiffusionPipeline.__call__)  # profiles look at the signature
    def __call__(self, *args, width: int, height: int, **kwargs):
        return super().__call__(*args, width=width // 16 * 16, height=height // 16 * 16, **kwargs)


def test_a_pipeline_that_makes_another_size_than_was_asked_for_fails_in_words():
    known = tiny_pipeline()
    pipeline = _RoundingPipeline(**known.components, requires_safety_checker=False)
    rounded, kept = a_request(width=24), a_request()

    ends = run(a_model(pipeline), [rounded, kept])

    assert isinstance(ends[rounded.id], Failed)
    assert ends[rounded.id].code == "unservable"
    assert "made 16x16" in ends[rounded.id].message
    assert pixels(ends[kept.id])
