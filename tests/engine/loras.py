"""Real small LoRA files, in the format that diffusers' own training scripts write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict

from jobs.settings import ROOT
from tests.engine.tiny import tiny_pipeline

RANK = 4
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]  # what a UNet's adapters usually sit on
CLIP = ["q_proj", "k_proj", "v_proj", "out_proj"]


def demo() -> Any:
    """The shipped model: its UNet has a list of layers, one number a block."""
    pipeline = DiffusionPipeline.from_pretrained(
        ROOT / "models/demo", use_safetensors=True, dtype=torch.float32
    )
    assert pipeline.unet.config.layers_per_block == [0, 1, 1]
    return pipeline


def write_lora(
    folder: Path, name: str, *, seed: int, build: Any = tiny_pipeline, text: bool = False
) -> Path:
    """An adapter of random weights for the pipeline that `build` makes; its file."""
    pipeline = build()
    torch.manual_seed(seed)
    layers = {"unet_lora_layers": _layers(pipeline.unet, ATTENTION)}
    if text:
        layers["text_encoder_lora_layers"] = _layers(pipeline.text_encoder, CLIP)
    file = folder / f"{name}.safetensors"
    pipeline.save_lora_weights(str(folder), weight_name=file.name, **layers)
    return file


def _layers(module: Any, targets: list[str]) -> dict[str, torch.Tensor]:
    module.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=targets))
    with torch.no_grad():  # a new adapter's second half is zero: it would change nothing
        for name, weight in module.named_parameters():
            if "lora_" in name:
                weight.normal_(std=0.3)
    return get_peft_model_state_dict(module)
