"""The trained networks as a diffusers folder: half precision, safetensors, replaced file by file.

A reader of the folder never meets half a file: everything is written beside it, then renamed.
"""

import json
import shutil
import tempfile
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from transformers import CLIPTextModel, CLIPTokenizer

from models.demo.recipe.network import build_sampler


def build_pipeline(
    vae: AutoencoderTiny,
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
) -> StableDiffusionPipeline:
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=build_sampler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def load_pipeline(folder: Path) -> StableDiffusionPipeline:
    """Load the exported model in single precision, as a user does."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def export(pipeline: StableDiffusionPipeline, folder: Path) -> None:
    """Save `pipeline` in half precision over `folder`; it is left in half precision."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".demo-") as name:
        fresh = Path(name)
        pipeline.to(dtype=torch.float16).save_pretrained(fresh)
        _load_whole(fresh / "text_encoder" / "config.json")
        pipeline.tokenizer.backend_tokenizer.model.save(str(fresh / "tokenizer"))
        for path in sorted(p for p in fresh.rglob("*") if p.is_file()):
            target = folder / path.relative_to(fresh)
            target.parent.mkdir(exist_ok=True)
            shutil.move(path, target)


def _load_whole(config: Path) -> None:
    """Make transformers load its part in single precision, as diffusers loads the others.

    It writes down the type that the weights are saved in and, from 5.0 on, loads in that: half
    beside single is an error at the first multiplication.
    """
    said = json.loads(config.read_text())
    config.write_text(json.dumps(said | {"dtype": "float32"}, indent=2, sort_keys=True) + "\n")
