"""A ControlNet for a tiny UNet: random, but not silent."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.controlnets.controlnet import ControlNetModel


def tiny_control(unet: Any) -> ControlNetModel:
    control = ControlNetModel.from_unet(
        unet, conditioning_embedding_out_channels=(64, 64), load_weights_from_unet=True
    )
    torch.manual_seed(3)
    with torch.no_grad():  # a new one's outputs are zero: it would steer nothing
        for part in control.parameters():
            if not part.any():
                part.normal_(std=0.05)
    return control.eval()
