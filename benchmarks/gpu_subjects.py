"""The models that are measured: the real shapes of three families, with random weights.

Owns their configurations and how one is built on the device within seconds: no file is read but
the demo model's tokenizer, nothing is fetched. What kernels cost and which bits they give depends
on shapes and types, not on what the weights have learned.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.flux.pipeline_flux import FluxPipeline
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import (
    StableDiffusionXLPipeline,
)
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from jobs.contract.model_file import Defaults, Limits, ModelEntry, Speed
from jobs.settings import ROOT
from worker.engine.accelerations import apply
from worker.engine.model import Model
from worker.engine.model_pool import DTYPES
from worker.engine.profiles import find_profile
from worker.messages import ImageRequest

NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
LIMITS = Limits(min_side=8, side_multiple=8)


@dataclass(frozen=True)
class Subject:
    """One family at its real size, and at the size that runs anywhere."""

    name: str
    real: Callable[[], Any]
    small: Callable[[], Any]
    sizes: tuple[int, ...]  # px, square
    own_size: int  # px: what it is made for
    sampler: str = "euler"
    prediction: str = "diffusion"


SMALL_SIZE = 16  # px: latents of 8 cells


@contextmanager
def making(device: torch.device, dtype: torch.dtype) -> Generator[None]:
    """Weights are drawn on the device, in their own type: 12 billion of them in seconds."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    torch.manual_seed(0)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)


def build(
    subject: Subject, *, device: torch.device, dtype: str, small: bool, speed: Speed | None = None
) -> Model:
    """Return the gated model, as the service would build it; nothing is written to disk."""
    with making(device, DTYPES[dtype]):
        pipeline = (subject.small if small else subject.real)()
    pipeline.to(device, DTYPES[dtype])
    size = SMALL_SIZE if small else subject.own_size
    entry = ModelEntry(
        id=subject.name,
        source=subject.name,
        dtype=dtype,  # pyright: ignore[reportArgumentType]
        prediction=subject.prediction,  # pyright: ignore[reportArgumentType]
        speed=speed or Speed(),
        limits=LIMITS,
        defaults=Defaults(width=size, height=size, sampler=subject.sampler, guidance_scale=5.0),
    )
    profile = find_profile(entry.family, type(pipeline).__name__)
    apply(entry.speed, pipeline, profile)
    return Model(entry, pipeline, profile)


def a_request(model: Model, size: int, number: int, *, steps: int = 12) -> ImageRequest:
    """Unlike its neighbours in all that may differ, but for the number of steps."""
    return ImageRequest(
        id=f"image-{number}",
        model=model.entry.id,
        prompt=f"a red boat on a blue ocean, number {number}",
        negative_prompt="green" if number % 2 else "",
        width=size,
        height=size,
        steps=steps,
        guidance_scale=3.0 + number % 8,
        seed=number,
        sampler=model.entry.defaults.sampler,
    )


# --- Stable Diffusion 1.5


def _tokenizer(length: int) -> Any:
    made = CLIPTokenizer.from_pretrained(ROOT / "models/demo/tokenizer")
    made.model_max_length = length
    return made


def _text(cls: Any, tokenizer: Any, **sizes: int) -> Any:
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **sizes,
    )
    return cls(config).eval()


def _vae(*, small: bool, **more: Any) -> AutoencoderKL:
    widths = (64, 64) if small else (128, 256, 512, 512)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        block_out_channels=widths,
        layers_per_block=1 if small else 2,
        norm_num_groups=8 if small else 32,
        **{"latent_channels": 4, **more},
    ).eval()


def _euler(**more: Any) -> EulerDiscreteScheduler:
    with torch.device("cpu"):
        return EulerDiscreteScheduler(**NOISE, steps_offset=1, **more)


CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
          "num_attention_heads": 12, "projection_dim": 768}  # fmt: skip
CLIP_G = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32,
          "num_attention_heads": 20, "projection_dim": 1280}  # fmt: skip
CLIP_TINY = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1,
             "num_attention_heads": 4, "projection_dim": 64}  # fmt: skip
TINY_UNET: dict[str, Any] = {
    "block_out_channels": (64, 64),
    "layers_per_block": 1,
    "sample_size": 16,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "norm_num_groups": 8,
    "attention_head_dim": 8,
}


def _sd15(*, small: bool) -> Any:
    tokenizer = _tokenizer(77)
    unet = (
        UNet2DConditionModel(**TINY_UNET, cross_attention_dim=64)
        if small
        else UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    )
    return StableDiffusionPipeline(
        vae=_vae(small=small, scaling_factor=0.18215),
        text_encoder=_text(CLIPTextModel, tokenizer, **(CLIP_TINY if small else CLIP_L)),
        tokenizer=tokenizer,
        unet=unet.eval(),
        scheduler=_euler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _sdxl(*, small: bool) -> Any:
    tokenizer = _tokenizer(77)
    shape: dict[str, Any] = {"use_linear_projection": True, "addition_embed_type": "text_time"}
    if small:
        shape |= TINY_UNET | {"cross_attention_dim": 128, "addition_time_embed_dim": 8}
        shape |= {"projection_class_embeddings_input_dim": 6 * 8 + 64}
    else:
        shape |= {
            "sample_size": 128,
            "block_out_channels": (320, 640, 1280),
            "down_block_types": ("DownBlock2D", *["CrossAttnDownBlock2D"] * 2),
            "up_block_types": (*["CrossAttnUpBlock2D"] * 2, "UpBlock2D"),
            "attention_head_dim": (5, 10, 20),
            "transformer_layers_per_block": (1, 2, 10),
            "cross_attention_dim": 2048,
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        }
    second = _text(CLIPTextModelWithProjection, tokenizer, **(CLIP_TINY if small else CLIP_G))
    return StableDiffusionXLPipeline(
        vae=_vae(small=small, scaling_factor=0.13025, force_upcast=True),
        text_encoder=_text(CLIPTextModel, tokenizer, **(CLIP_TINY if small else CLIP_L)),
        text_encoder_2=second,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=UNet2DConditionModel(**shape).eval(),
        scheduler=_euler(timestep_spacing="leading"),
        add_watermarker=False,
    )


def _flux(*, small: bool) -> Any:
    """Its text encoders (T5-XXL: 9 GiB) are left out: numbers of their shape stand for a prompt."""
    words, wide, pooled = (16, 64, 64) if small else (512, 4096, 768)
    shape: dict[str, Any] = {"patch_size": 1, "guidance_embeds": True, "pooled_projection_dim": 768}
    if small:
        shape |= {"in_channels": 16, "num_layers": 1, "num_single_layers": 1}
        shape |= {"attention_head_dim": 32, "num_attention_heads": 2, "joint_attention_dim": wide}
        shape |= {"pooled_projection_dim": pooled, "axes_dims_rope": (8, 8, 16)}
    with torch.device("cpu"):
        flow = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    latent = {"latent_channels": 4 if small else 16, "scaling_factor": 0.3611}
    pipeline = FluxPipeline(
        scheduler=flow,
        vae=_vae(
            small=small,
            **latent,
            shift_factor=0.1159,
            use_quant_conv=False,
            use_post_quant_conv=False,
        ),
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        transformer=FluxTransformer2DModel(**shape).eval(),
    )

    def encode_prompt(prompt: str, *_: Any, **__: Any) -> tuple[torch.Tensor, ...]:
        like = next(pipeline.transformer.parameters())
        generator = torch.Generator().manual_seed(sum(prompt.encode()))
        said = [torch.randn(1, *s, generator=generator) for s in ((words, wide), (pooled,))]
        return *(part.to(like) for part in said), torch.zeros(words, 3).to(like)

    pipeline.encode_prompt = encode_prompt
    return pipeline


SUBJECTS = (
    Subject("sd15", lambda: _sd15(small=False), lambda: _sd15(small=True), (512, 768, 1024), 512),
    Subject("sdxl", lambda: _sdxl(small=False), lambda: _sdxl(small=True), (512, 768, 1024), 1024),
    Subject(
        "flux",
        lambda: _flux(small=False),
        lambda: _flux(small=True),
        (512, 768, 1024),
        1024,
        "flow_euler",
        "flow",
    ),
)
