"""A tiny random pipeline of each family: the vendor's own classes, made from their configs.

Text encoders are left out: `encode_prompt` gives numbers drawn from the prompt's text in their
place, and everything after it is the pipeline's own, unmodified.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_dc import AutoencoderDC
from diffusers.models.autoencoders.autoencoder_kl_qwenimage import AutoencoderKLQwenImage
from diffusers.models.transformers.auraflow_transformer_2d import AuraFlowTransformer2DModel
from diffusers.models.transformers.pixart_transformer_2d import PixArtTransformer2DModel
from diffusers.models.transformers.sana_transformer import SanaTransformer2DModel
from diffusers.models.transformers.transformer_chroma import ChromaTransformer2DModel
from diffusers.models.transformers.transformer_cogview4 import CogView4Transformer2DModel
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from diffusers.models.transformers.transformer_lumina2 import Lumina2Transformer2DModel
from diffusers.models.transformers.transformer_qwenimage import QwenImageTransformer2DModel
from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
from diffusers.models.transformers.transformer_z_image import ZImageTransformer2DModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.aura_flow.pipeline_aura_flow import AuraFlowPipeline
from diffusers.pipelines.chroma.pipeline_chroma import ChromaPipeline
from diffusers.pipelines.cogview4.pipeline_cogview4 import CogView4Pipeline
from diffusers.pipelines.flux.pipeline_flux import FluxPipeline
from diffusers.pipelines.lumina2.pipeline_lumina2 import Lumina2Pipeline
from diffusers.pipelines.pixart_alpha.pipeline_pixart_sigma import PixArtSigmaPipeline
from diffusers.pipelines.qwenimage.pipeline_qwenimage import QwenImagePipeline
from diffusers.pipelines.sana.pipeline_sana import SanaPipeline
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import (
    StableDiffusion3Pipeline,
)
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import (
    StableDiffusionXLPipeline,
)
from diffusers.pipelines.z_image.pipeline_z_image import ZImagePipeline
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler as FlowMatch,
)

from tests.engine.tiny import tiny_vae

DIM = 64
FLUX_VAE = {"use_quant_conv": False, "use_post_quant_conv": False, "shift_factor": 0.06}
SHIFTING = FlowMatch(use_dynamic_shifting=True)


def said(prompt: str | None, *shape: int) -> torch.Tensor:
    """Numbers that stand for a prompt."""
    seed = zlib.crc32((prompt or "").encode())
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def with_text(pipeline: Any, encode: Callable[[str | None, str | None], tuple[Any, ...]]) -> Any:
    def encode_prompt(
        prompt: str | None = None, _guided: Any = None, *_: Any, **more: Any
    ) -> tuple[Any, ...]:
        negative = _guided if isinstance(_guided, str) else more.get("negative_prompt")
        return encode(prompt, negative)

    pipeline.encode_prompt = encode_prompt
    return pipeline


def sdxl() -> Any:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        block_out_channels=(DIM, DIM), layers_per_block=1, sample_size=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=8, use_linear_projection=True, addition_embed_type="text_time",
        addition_time_embed_dim=8, projection_class_embeddings_input_dim=6 * 8 + DIM,
        cross_attention_dim=DIM, norm_num_groups=8,
    ).eval()  # fmt: skip
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    second = CLIPTextModelWithProjection(
        CLIPTextConfig(
            hidden_size=DIM,
            intermediate_size=DIM,
            projection_dim=DIM,
            num_hidden_layers=1,
            num_attention_heads=4,
            vocab_size=10,
        )
    )  # fmt: skip
    pipeline = StableDiffusionXLPipeline(
        vae=tiny_vae(), text_encoder=None, text_encoder_2=second, tokenizer=None,
        tokenizer_2=None, unet=unet, add_watermarker=False,
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
            timestep_spacing="leading", steps_offset=1,
        ),
    )  # fmt: skip
    return with_text(
        pipeline,
        lambda p, n: (said(p, 1, 77, DIM), said(n, 1, 77, DIM), said(p, 1, DIM), said(n, 1, DIM)),
    )


def sd3(channels: int = 4) -> Any:
    torch.manual_seed(0)
    transformer = SD3Transformer2DModel(
        sample_size=32, patch_size=1, in_channels=channels, num_layers=2, attention_head_dim=16,
        num_attention_heads=4, joint_attention_dim=DIM, caption_projection_dim=DIM,
        pooled_projection_dim=DIM, out_channels=channels,
    ).eval()  # fmt: skip
    nothing = dict.fromkeys(
        ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "text_encoder_3",
         "tokenizer_3")
    )  # fmt: skip
    pipeline = StableDiffusion3Pipeline(
        transformer=transformer, scheduler=FlowMatch(),
        vae=tiny_vae(latent_channels=channels, shift_factor=0.06), **nothing,
    )  # fmt: skip
    return with_text(
        pipeline,
        lambda p, n: (said(p, 1, 77, DIM), said(n, 1, 77, DIM), said(p, 1, DIM), said(n, 1, DIM)),
    )


def flux() -> Any:
    torch.manual_seed(0)
    transformer = FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=32,
        num_attention_heads=2, joint_attention_dim=DIM, pooled_projection_dim=DIM,
        axes_dims_rope=(8, 8, 16), guidance_embeds=True,
    ).eval()  # fmt: skip
    pipeline = FluxPipeline(
        scheduler=SHIFTING, vae=tiny_vae(**FLUX_VAE), text_encoder=None, tokenizer=None,
        text_encoder_2=None, tokenizer_2=None, transformer=transformer,
    )  # fmt: skip
    return with_text(
        pipeline, lambda p, _: (said(p, 1, 48, DIM), said(p, 1, DIM), torch.zeros(48, 3))
    )


def pixart() -> Any:
    torch.manual_seed(0)
    transformer = PixArtTransformer2DModel(
        sample_size=8, num_layers=2, patch_size=2, attention_head_dim=16, num_attention_heads=4,
        caption_channels=DIM, in_channels=4, cross_attention_dim=DIM, out_channels=8,
    ).eval()  # fmt: skip
    pipeline = PixArtSigmaPipeline(
        tokenizer=None, text_encoder=None, vae=tiny_vae(), transformer=transformer,
        scheduler=DPMSolverMultistepScheduler(),
    )  # fmt: skip
    return with_text(
        pipeline,
        lambda p, n: (said(p, 1, 40, DIM), mask(p, 40), said(n, 1, 40, DIM), mask(n, 40)),
    )


def mask(prompt: str | None, length: int) -> torch.Tensor:
    return (torch.arange(length) < 5 + len(prompt or "") % 20)[None].float()


def sana() -> Any:
    torch.manual_seed(0)
    transformer = SanaTransformer2DModel(
        patch_size=1, in_channels=4, out_channels=4, num_layers=1, num_attention_heads=4,
        attention_head_dim=16, num_cross_attention_heads=4, cross_attention_head_dim=16,
        cross_attention_dim=DIM, caption_channels=DIM, sample_size=32,
    ).eval()  # fmt: skip
    vae = AutoencoderDC(
        in_channels=3, latent_channels=4, attention_head_dim=16,
        encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(DIM, DIM), decoder_block_out_channels=(DIM, DIM),
        encoder_qkv_multiscales=((), (5,)), decoder_qkv_multiscales=((), (5,)),
        encoder_layers_per_block=(1, 1), decoder_layers_per_block=(1, 1),
        downsample_block_type="conv", upsample_block_type="interpolate",
        decoder_norm_types="rms_norm", decoder_act_fns="silu", scaling_factor=0.41,
    ).eval()  # fmt: skip
    pipeline = SanaPipeline(
        transformer=transformer, vae=vae, scheduler=FlowMatch(shift=7.0), text_encoder=None,
        tokenizer=None,
    )  # fmt: skip
    return with_text(
        pipeline,
        lambda p, n: (said(p, 1, 16, DIM), mask(p, 16), said(n, 1, 16, DIM), mask(n, 16)),
    )


def qwen_image() -> Any:
    torch.manual_seed(0)
    transformer = QwenImageTransformer2DModel(
        patch_size=2, in_channels=16, out_channels=4, num_layers=2, attention_head_dim=32,
        num_attention_heads=2, joint_attention_dim=DIM, guidance_embeds=False,
        axes_dims_rope=(16, 8, 8),
    ).eval()  # fmt: skip
    vae = AutoencoderKLQwenImage(
        base_dim=24, z_dim=4, dim_mult=[1, 2, 4], num_res_blocks=1,
        temperal_downsample=[False, True], latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
    ).eval()  # fmt: skip
    pipeline = QwenImagePipeline(
        transformer=transformer, vae=vae, scheduler=SHIFTING, text_encoder=None, tokenizer=None
    )
    return with_text(pipeline, lambda p, _: (said(p, 1, 24, DIM), mask(p, 24).bool()))


def z_image() -> Any:
    torch.manual_seed(0)
    transformer = ZImageTransformer2DModel(
        all_patch_size=(2,), all_f_patch_size=(1,), in_channels=16, dim=DIM, n_layers=2,
        n_refiner_layers=1, n_heads=2, n_kv_heads=2, norm_eps=1e-5, qk_norm=True,
        cap_feat_dim=DIM, rope_theta=256.0, t_scale=1000.0, axes_dims=[16, 8, 8],
        axes_lens=[256, 32, 32],
    ).eval()  # fmt: skip
    with torch.no_grad():
        transformer.x_pad_token.normal_()
        transformer.cap_pad_token.normal_()
    vae = tiny_vae(latent_channels=16, scaling_factor=0.36, **FLUX_VAE)
    pipeline = ZImagePipeline(
        transformer=transformer, vae=vae, scheduler=FlowMatch(shift=3.0), text_encoder=None,
        tokenizer=None,
    )  # fmt: skip
    return with_text(
        pipeline, lambda p, n: ([said(p, 5 + len(p or "") % 20, DIM)], [said(n, 7, DIM)])
    )


def chroma() -> Any:
    torch.manual_seed(0)
    transformer = ChromaTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=32,
        num_attention_heads=2, joint_attention_dim=DIM, axes_dims_rope=(8, 8, 16),
        approximator_hidden_dim=DIM, approximator_layers=1, approximator_num_channels=DIM,
    ).eval()  # fmt: skip
    pipeline = ChromaPipeline(
        scheduler=SHIFTING, vae=tiny_vae(**FLUX_VAE), text_encoder=None, tokenizer=None,
        transformer=transformer,
    )  # fmt: skip
    ids = torch.zeros(16, 3)
    return with_text(
        pipeline,
        lambda p, n: (
            said(p, 1, 16, DIM), ids, mask(p, 16).bool(),
            said(n, 1, 16, DIM), ids, mask(n, 16).bool(),
        ),
    )  # fmt: skip


def lumina2() -> Any:
    torch.manual_seed(0)
    transformer = Lumina2Transformer2DModel(
        sample_size=4, patch_size=2, in_channels=4, hidden_size=DIM, num_layers=2,
        num_refiner_layers=1, num_attention_heads=2, num_kv_heads=2, multiple_of=16,
        ffn_dim_multiplier=None, norm_eps=1e-5, scaling_factor=1.0, axes_dim_rope=(16, 8, 8),
        axes_lens=(128, 64, 64), cap_feat_dim=DIM,
    ).eval()  # fmt: skip
    pipeline = Lumina2Pipeline(
        transformer=transformer, scheduler=SHIFTING, text_encoder=None, tokenizer=None,
        vae=tiny_vae(blocks=4, **FLUX_VAE),  # its pipeline takes a scale of 8 for granted
    )  # fmt: skip
    return with_text(
        pipeline,
        lambda p, n: (
            said(p, 1, 16, DIM), torch.ones(1, 16).long(),
            said(n, 1, 16, DIM), torch.ones(1, 16).long(),
        ),
    )  # fmt: skip


def cogview4() -> Any:
    torch.manual_seed(0)
    transformer = CogView4Transformer2DModel(
        patch_size=2, in_channels=4, num_layers=2, attention_head_dim=32, num_attention_heads=2,
        out_channels=4, text_embed_dim=DIM, time_embed_dim=DIM, condition_dim=16,
    ).eval()  # fmt: skip
    pipeline = CogView4Pipeline(
        transformer=transformer, vae=tiny_vae(), text_encoder=None, tokenizer=None,
        scheduler=FlowMatch(
            base_shift=0.25, max_shift=0.75, base_image_seq_len=256, use_dynamic_shifting=True,
            time_shift_type="linear",
        ),
    )  # fmt: skip
    return with_text(pipeline, lambda p, n: (said(p, 1, 16, DIM), said(n, 1, 16, DIM)))


def aura_flow() -> Any:
    torch.manual_seed(0)
    transformer = AuraFlowTransformer2DModel(
        sample_size=32, patch_size=2, in_channels=4, num_mmdit_layers=1,
        num_single_dit_layers=1, attention_head_dim=32, num_attention_heads=2,
        joint_attention_dim=DIM, caption_projection_dim=DIM, out_channels=4,
        pos_embed_max_size=256,
    ).eval()  # fmt: skip
    pipeline = AuraFlowPipeline(
        transformer=transformer, vae=tiny_vae(), scheduler=FlowMatch(), text_encoder=None,
        tokenizer=None,
    )  # fmt: skip
    return with_text(
        pipeline,
        lambda p, n: (said(p, 1, 16, DIM), mask(p, 16), said(n, 1, 16, DIM), mask(n, 16)),
    )


class _UnknownPipeline(StableDiffusionXLPipeline):
    """A pipeline class that no profile names."""


def unknown() -> Any:
    known = sdxl()
    pipeline = _UnknownPipeline(**known.components, add_watermarker=False)
    pipeline.encode_prompt = known.encode_prompt
    return pipeline
