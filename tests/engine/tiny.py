"""A tiny random Stable Diffusion: real classes, a few hundred thousand weights, no file needed.

Channel sizes are multiples of 64: below that an elementwise kernel's SIMD tail makes a value
depend on its position in the batch. Channel sizes of real models do not show this.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.schedulers.scheduling_pndm import PNDMScheduler
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from jobs.contract.model_file import Defaults, Limits, ModelEntry
from jobs.settings import ROOT
from worker.engine.model import Model
from worker.engine.profiles import find_profile
from worker.messages import ImageRequest

SIDE = 16  # px; the latents are 8 x 8
LIMITS = Limits(min_side=8, side_multiple=8)
_numbers = itertools.count(1)


def tiny_unet(channels: int = 4) -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        in_channels=channels,
        out_channels=channels,
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(64, 64),
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=64,
        attention_head_dim=8,
    ).eval()


def loud(network: Any) -> Any:
    """The same, without zeros: a new one whose outputs are zero would do nothing."""
    torch.manual_seed(3)
    with torch.no_grad():
        for part in network.parameters():
            if not part.any():
                part.normal_(std=0.05)
    return network.eval()


def tiny_vae(*, blocks: int = 2, **more: Any) -> AutoencoderKL:
    torch.manual_seed(1)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        block_out_channels=(64,) * blocks,
        latent_channels=more.pop("latent_channels", 4),
        norm_num_groups=8,
        **more,
    ).eval()


def tiny_clip(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    torch.manual_seed(2)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config).eval()


def tiny_sampler() -> PNDMScheduler:
    return PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def tiny_pipeline() -> StableDiffusionPipeline:
    tokenizer = CLIPTokenizer.from_pretrained(ROOT / "models/demo/tokenizer")
    return StableDiffusionPipeline(
        vae=tiny_vae(),
        text_encoder=tiny_clip(tokenizer),
        tokenizer=tokenizer,
        unet=tiny_unet(),
        scheduler=tiny_sampler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def an_entry(**more: Any) -> ModelEntry:
    defaults = Defaults(width=SIDE, height=SIDE, sampler="ddim")
    known = {"id": "tiny", "source": "tiny", "defaults": defaults, "limits": LIMITS}
    return ModelEntry(**{**known, **more})


def a_model(pipeline: Any, **more: Any) -> Model:
    """The pipeline behind gates, self-tested when a size is first asked for."""
    entry = an_entry(**more)
    return Model(entry, pipeline, find_profile(entry.family, type(pipeline).__name__))


def a_request(**more: Any) -> ImageRequest:
    known = {
        "id": f"image-{next(_numbers)}",
        "model": "tiny",
        "prompt": "a red bicycle on a cobblestone street",
        "width": SIDE,
        "height": SIDE,
        "steps": 6,
        "guidance_scale": 5.0,
        "seed": 7,
        "sampler": "ddim",
    }
    return ImageRequest(**{**known, **more})
