"""The committed weights: they load as any diffusers model does, and draw the same every time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline

from models.demo.recipe.card import WEIGHTS
from models.demo.recipe.export import export, load_pipeline
from models.demo.recipe.network import LATENT_FACTOR
from models.demo.recipe.preview import draw
from models.demo.recipe.vae import LinearEncoder

PROMPT = "a red bicycle on a cobblestone street"
MAX_BYTES = 40e6  # every version stays in the history of the repository


@pytest.fixture(scope="module")
def pipeline() -> Iterator[StableDiffusionPipeline]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield load_pipeline(WEIGHTS)
    torch.set_num_threads(threads)


def test_the_layout_is_what_the_engine_expects(pipeline: StableDiffusionPipeline):
    assert pipeline.safety_checker is None
    assert pipeline.vae_scale_factor == LATENT_FACTOR
    assert pipeline.unet.config.sample_size * pipeline.vae_scale_factor == 128
    assert pipeline.scheduler.config.prediction_type == "v_prediction"


@pytest.mark.parametrize("exported", [False, True], ids=["committed", "exported"])
def test_every_part_loads_in_single_precision_where_nothing_is_said(tmp_path: Path, exported: bool):
    """transformers loads in the type that config.json names: half beside single cannot multiply."""
    folder = WEIGHTS
    if exported:
        folder = tmp_path / "again"
        export(load_pipeline(WEIGHTS), folder)

    plain = StableDiffusionPipeline.from_pretrained(folder)

    assert {part.dtype for part in (plain.unet, plain.vae, plain.text_encoder)} == {torch.float32}


def test_the_weights_fit_the_repository():
    assert sum(path.stat().st_size for path in WEIGHTS.rglob("*.safetensors")) <= MAX_BYTES


def test_a_seed_is_a_picture(pipeline: StableDiffusionPipeline):
    one, other = (
        [np.asarray(image) for image in draw(pipeline, [PROMPT], seed=seed, steps=3)]
        for seed in (1, 2)
    )
    same = np.asarray(draw(pipeline, [PROMPT], seed=1, steps=3)[0])

    assert (one[0] == same).all()
    assert (one[0] != other[0]).any()


@pytest.mark.parametrize("size", [(96, 160), (160, 96)])
def test_wide_and_tall_pictures_can_be_drawn(
    pipeline: StableDiffusionPipeline, size: tuple[int, int]
):
    (image,) = draw(pipeline, [PROMPT], steps=2, size=size)

    assert (image.height, image.width) == size


def test_the_encoder_is_linear(pipeline: StableDiffusionPipeline):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    scaled = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1

    with torch.no_grad():
        encoded = pipeline.vae.encode(scaled).latents * pipeline.vae.config.scaling_factor

    assert torch.allclose(encoded, LinearEncoder(pipeline.vae)(pixels), atol=1e-2)
