"""More tiny pipelines: kin of those in `families.py`, trained or called otherwise."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_flux2 import AutoencoderKLFlux2
from diffusers.models.transformers.transformer_cogview3plus import (
    CogView3PlusTransformer2DModel,
)
from diffusers.models.transformers.transformer_flux2 import Flux2Transformer2DModel
from diffusers.models.transformers.transformer_longcat_image import (
    LongCatImageTransformer2DModel,
)
from diffusers.models.transformers.transformer_ovis_image import OvisImageTransformer2DModel
from diffusers.models.transformers.transformer_prx import PRXTransformer2DModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.cogview3.pipeline_cogview3plus import CogView3PlusPipeline
from diffusers.pipelines.flux2.pipeline_flux2 import Flux2Pipeline
from diffusers.pipelines.flux2.pipeline_flux2_klein import Flux2KleinPipeline
from diffusers.pipelines.kolors.pipeline_kolors import KolorsPipeline
from diffusers.pipelines.latent_consistency_models.pipeline_latent_consistency_text2img import (
    LatentConsistencyModelPipeline,
)
from diffusers.pipelines.longcat_image.pipeline_longcat_image import LongCatImagePipeline
from diffusers.pipelines.ovis_image.pipeline_ovis_image import OvisImagePipeline
from diffusers.pipelines.prx.pipeline_prx import PRXPipeline
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import (
    StableDiffusionXLPipeline,
)
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddim_cogvideox import CogVideoXDDIMScheduler
from diffusers.schedulers.scheduling_edm_dpmsolver_multistep import EDMDPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_euler_ancestral_discrete import EulerAncestralDiscreteScheduler
from diffusers.schedulers.scheduling_lcm import LCMScheduler
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from jobs.settings import ROOT
from tests.engine.families import (
    DIM,
    FLUX_VAE,
    SHIFTING,
    FlowMatch,
    mask,
    said,
    sdxl,
    with_text,
)
from tests.engine.tiny import loud, tiny_clip, tiny_pipeline, tiny_vae

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def sd2() -> Any:
    """Stable Diffusion 2.1: predicts velocity, and its noise ends at zero signal."""
    pipeline = tiny_pipeline()
    pipeline.scheduler = DDIMScheduler(
        **BETAS, prediction_type="v_prediction", rescale_betas_zero_snr=True,
        timestep_spacing="trailing", clip_sample=False, set_alpha_to_one=False, steps_offset=1,
    )  # fmt: skip
    return pipeline


def sdxl_turbo() -> Any:
    """SDXL-Turbo: the same network, distilled, with times from the end."""
    pipeline = sdxl()
    pipeline.scheduler = EulerAncestralDiscreteScheduler(**BETAS, timestep_spacing="trailing")
    return pipeline


def lcm_sdxl() -> Any:
    """LCM-SDXL: guidance is an input of the network (`timestep_cond`), one row an image."""
    known = sdxl()
    parts = {**known.components, **_guided_by_input(known.unet)}
    pipeline = StableDiffusionXLPipeline(**parts, add_watermarker=False)
    pipeline.encode_prompt = known.encode_prompt
    return pipeline


def lcm() -> Any:
    """Latent consistency of Stable Diffusion 1: its own pipeline class."""
    known = tiny_pipeline()
    parts = {**known.components, **_guided_by_input(known.unet)}
    return LatentConsistencyModelPipeline(**parts, requires_safety_checker=False)


def _guided_by_input(unet: UNet2DConditionModel) -> dict[str, Any]:
    """The same network with a place for guidance as a number, and its sampler."""
    torch.manual_seed(0)
    distilled = UNet2DConditionModel.from_config({**_plain(unet), "time_cond_proj_dim": DIM}).eval()
    assert distilled.config["time_cond_proj_dim"] == DIM
    return {"unet": distilled, "scheduler": LCMScheduler(**BETAS)}


def whole_sdxl() -> Any:
    """SDXL with text encoders of its own, for what makes other pipelines of its modules."""
    known, tokenizer = sdxl(), CLIPTokenizer.from_pretrained(ROOT / "models/demo/tokenizer")
    first = tiny_clip(tokenizer)
    torch.manual_seed(4)
    second = CLIPTextModelWithProjection(
        CLIPTextConfig(**{**first.config.to_dict(), "projection_dim": DIM})
    )
    parts = {"text_encoder": first, "tokenizer": tokenizer, "tokenizer_2": tokenizer}
    torch.manual_seed(0)
    unet = UNet2DConditionModel.from_config({**_plain(known.unet), "cross_attention_dim": 2 * DIM})
    parts |= {"text_encoder_2": second.eval(), "unet": unet.eval()}
    return StableDiffusionXLPipeline(**{**known.components, **parts}, add_watermarker=False)


def _plain(module: Any) -> dict[str, Any]:
    """Its configuration without notes on what was left to the defaults."""
    return {k: v for k, v in module.config.items() if not k.startswith("_")}


def edm() -> Any:
    """An SDXL trained the EDM way, such as Playground 2.5."""
    pipeline = sdxl()
    pipeline.scheduler = EDMDPMSolverMultistepScheduler(sigma_max=80.0, sigma_data=0.5)
    return pipeline


def flux2() -> Any:
    return _flux2(Flux2Pipeline, guidance_embeds=True)


def flux2_klein() -> Any:
    return _flux2(Flux2KleinPipeline, guidance_embeds=False)


def _flux2(cls: Any, *, guidance_embeds: bool) -> Any:
    torch.manual_seed(0)
    transformer = Flux2Transformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=32,
        num_attention_heads=2, joint_attention_dim=DIM, timestep_guidance_channels=DIM,
        axes_dims_rope=(8, 8, 8, 8), guidance_embeds=guidance_embeds,
    ).eval()  # fmt: skip
    vae = AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(DIM, DIM), layers_per_block=1, latent_channels=4, norm_num_groups=8,
    ).eval()  # fmt: skip
    pipeline = cls(
        scheduler=SHIFTING, vae=vae, text_encoder=None, tokenizer=None, transformer=transformer
    )
    ids = torch.cartesian_prod(*(torch.arange(n) for n in (1, 1, 1, 16)))[None]
    return with_text(pipeline, lambda p, _: (said(p, 1, 16, DIM), ids))


def kolors() -> Any:
    """An SDXL network under a language model's text, in a pipeline class that no profile names."""
    known = sdxl()
    pipeline = KolorsPipeline(
        vae=known.vae, text_encoder=None, tokenizer=None, unet=known.unet,
        scheduler=known.scheduler,
    )  # fmt: skip
    return with_text(
        pipeline,
        lambda p, n: (said(p, 1, 77, DIM), said(n, 1, 77, DIM), said(p, 1, DIM), said(n, 1, DIM)),
    )


def cogview3() -> Any:
    torch.manual_seed(0)
    transformer = CogView3PlusTransformer2DModel(
        patch_size=2, in_channels=4, num_layers=1, attention_head_dim=32, num_attention_heads=2,
        out_channels=4, text_embed_dim=DIM, time_embed_dim=DIM, condition_dim=16,
        pos_embed_max_size=64, sample_size=8,
    ).eval()  # fmt: skip
    pipeline = CogView3PlusPipeline(
        tokenizer=None, text_encoder=None, vae=tiny_vae(), transformer=transformer,
        scheduler=CogVideoXDDIMScheduler(),
    )  # fmt: skip
    return with_text(pipeline, lambda p, n: (said(p, 1, 24, DIM), said(n, 1, 24, DIM)))


def ovis_image() -> Any:
    torch.manual_seed(0)
    transformer = OvisImageTransformer2DModel(
        in_channels=16, out_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=32,
        num_attention_heads=2, joint_attention_dim=DIM, axes_dims_rope=(8, 8, 16),
    ).eval()  # fmt: skip
    pipeline = OvisImagePipeline(
        scheduler=SHIFTING, vae=tiny_vae(**FLUX_VAE), text_encoder=None, tokenizer=None,
        transformer=transformer,
    )  # fmt: skip
    ids = torch.zeros(24, 3)
    return with_text(pipeline, lambda p, n: (said(p, 1, 24, DIM), said(n, 1, 24, DIM), ids, ids))


def prx() -> Any:
    torch.manual_seed(0)
    transformer = PRXTransformer2DModel(
        in_channels=4, patch_size=1, context_in_dim=DIM, hidden_size=DIM, num_heads=2, depth=1,
        axes_dim=[16, 16],
    ).eval()  # fmt: skip
    pipeline = PRXPipeline(
        transformer=loud(transformer), scheduler=FlowMatch(shift=3.0),
        text_encoder=None, tokenizer=None,
        vae=tiny_vae(**FLUX_VAE), default_sample_size=None,
    )  # fmt: skip
    return with_text(
        pipeline,
        lambda p, n: (
            said(p, 1, 16, DIM),
            mask(p, 16).bool(),
            said(n, 1, 16, DIM),
            mask(n, 16).bool(),
        ),
    )


def longcat_image() -> Any:
    torch.manual_seed(0)
    transformer = LongCatImageTransformer2DModel(
        in_channels=64, num_layers=1, num_single_layers=1, attention_head_dim=32,
        num_attention_heads=2, joint_attention_dim=DIM, pooled_projection_dim=DIM,
        axes_dims_rope=[8, 8, 16],
    ).eval()  # fmt: skip
    pipeline = LongCatImagePipeline(
        scheduler=SHIFTING, vae=tiny_vae(latent_channels=16, **FLUX_VAE), text_encoder=None,
        tokenizer=None, text_processor=None, transformer=transformer,
    )  # fmt: skip
    return with_text(pipeline, lambda p, _: (said(p, 1, 24, DIM), torch.zeros(24, 3)))
