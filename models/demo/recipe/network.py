"""The three networks and the noise schedule: their shapes, and nothing about training.

A 16x VAE (8x8x24 latents for 128x128), a UNet that spends its weights at 4x4 and 2x2, where they
cost little arithmetic, and a two-layer text encoder. The caption reaches the UNet twice: pooled
into the time embedding (which thing, which colour, what ground) and by cross attention (where).
"""

from typing import Final

from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from models.demo.recipe.tokenizer import MAX_TOKENS

LATENT_CHANNELS: Final = 24
LATENT_FACTOR: Final = 16
TEXT_WIDTH: Final = 192
VAE_WIDTH: Final = 32
BETAS: Final = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
TRAIN_STEPS: Final = 1000


def build_vae() -> AutoencoderTiny:
    return AutoencoderTiny(
        encoder_block_out_channels=(VAE_WIDTH,) * 5,
        decoder_block_out_channels=(VAE_WIDTH,) * 5,
        num_encoder_blocks=(0, 0, 0, 0, 0),  # no residual block, no ReLU: linear (see vae.py)
        num_decoder_blocks=(4, 4, 3, 0, 0),  # none at 64x64 and 128x128, where they cost the most
        latent_channels=LATENT_CHANNELS,
        scaling_factor=8.0,  # keeps latents inside the decoder's tanh clamp
    )


def build_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=128 // LATENT_FACTOR,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(128, 192, 256),
        layers_per_block=(0, 1, 1),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=(2, 3, 4),  # heads, in spite of its name: 64 channels each
        norm_num_groups=16,
        resnet_time_scale_shift="scale_shift",
        addition_embed_type="text",
        addition_embed_type_num_heads=3,
        encoder_hid_dim=TEXT_WIDTH,
    )


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=3,
            max_position_embeddings=MAX_TOKENS,
            projection_dim=TEXT_WIDTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def build_sampler() -> DPMSolverMultistepScheduler:
    sampler = DPMSolverMultistepScheduler(
        num_train_timesteps=TRAIN_STEPS, prediction_type="v_prediction", steps_offset=1, **BETAS
    )
    # For those made from this one's configuration: DDIM and DDPM would clip latents as if they
    # were pixels, and drew nothing that the judge knew (0 of 32).
    sampler.register_to_config(clip_sample=False)
    return sampler
