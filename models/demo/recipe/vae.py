"""The VAE: an encoder that is computed, not trained, and a decoder that starts from a copy.

The pictures are so regular that a linear map keeps most of them: principal components of 16x16
blocks give 28 dB in 24 numbers. AutoencoderTiny without residual blocks is linear, so its encoder
is set to those components, level by level: 2x2 neighbours are stacked and the WIDTH - 1 strongest
components kept. The last channel always holds 1: it carries the offsets, as its convolutions have
no bias. Latents never move, so the UNet trains while the decoder still does.
"""

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from numpy.typing import NDArray
from torch import Tensor, nn

from models.demo.recipe.network import LATENT_CHANNELS, build_vae

Rows = NDArray[np.float64]  # (samples, values)
# Latents have variances in proportion to the square root of the components' own: the coarse
# still drowns last in the noise, the fine is not lost in it.
WHITENING = 0.25


def fitted_vae(pictures: NDArray[np.uint8]) -> AutoencoderTiny:
    """Return a VAE whose encoder keeps the principal components of `pictures` (N, H, W, 3)."""
    vae = build_vae()
    convs = [layer for layer in vae.encoder.layers if isinstance(layer, nn.Conv2d)]
    with torch.no_grad():
        for conv in convs:
            conv.weight.zero_()
        features = _copy_pixels(convs[0], pictures)
        for conv in convs[1:-1]:
            features = _merge_neighbours(conv, features)
        _scale_latents(convs[-1], features, vae.config.scaling_factor)
        _start_decoder(vae.decoder)
    return vae


def _copy_pixels(conv: nn.Conv2d, pictures: NDArray[np.uint8]) -> Rows:
    conv.weight[:3, :, 1, 1] = torch.eye(3)
    conv.bias.zero_()
    conv.bias[-1] = 1
    return pictures.astype(np.float64) / 255


def _merge_neighbours(conv: nn.Conv2d, features: Rows) -> Rows:
    """Set a stride-2 convolution to the strongest components of 2x2 neighbours; (N, H, W, C)."""
    n, h, w, c = features.shape
    blocks = features.reshape(n, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 2, 4, 5)
    rows = blocks.reshape(-1, 4 * c)
    mean, basis, _ = _components(rows, min(4 * c, conv.out_channels - 1))
    kept = basis.shape[1]
    # Kernel rows 1 and 2 of a stride-2 convolution with padding 1 meet pixels 2i and 2i + 1.
    kernel = torch.from_numpy(basis.T.reshape(kept, 2, 2, c)).permute(0, 3, 1, 2)
    conv.weight[:kept, :c, 1:, 1:] = kernel.float()
    conv.weight[:kept, -1, 1, 1] = torch.from_numpy(-mean @ basis).float()
    conv.weight[-1, -1, 1, 1] = 1
    return ((rows - mean) @ basis).reshape(n, h // 2, w // 2, kept)


def _scale_latents(conv: nn.Conv2d, features: Rows, scaling_factor: float) -> None:
    kept = LATENT_CHANNELS
    variance = features[..., :kept].reshape(-1, kept).var(axis=0)
    scale = variance**-WHITENING
    scale /= np.sqrt((variance * scale**2).mean()) * scaling_factor
    conv.weight[torch.arange(kept), torch.arange(kept), 1, 1] = torch.from_numpy(scale).float()
    conv.bias.zero_()


def _components(rows: Rows, kept: int) -> tuple[Rows, Rows, Rows]:
    """Return the mean, the `kept` strongest principal directions as columns, their variances."""
    mean = rows.mean(axis=0)
    variances, directions = np.linalg.eigh(np.cov(rows - mean, rowvar=False))
    order = np.argsort(variances)[::-1][:kept]
    return mean, directions[:, order], variances[order]


def _start_decoder(decoder: nn.Module) -> None:
    """Residual blocks that begin as nothing, upsamplings that begin as a copy: fast to train."""
    for layer in decoder.layers:
        if isinstance(layer, nn.Conv2d) and layer.bias is None:
            nn.init.dirac_(layer.weight)
            layer.weight.add_(0.02 * torch.randn_like(layer.weight))
        elif hasattr(layer, "conv"):
            for conv in layer.conv:
                if isinstance(conv, nn.Conv2d):
                    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
                    nn.init.zeros_(conv.bias)
            layer.conv[-1].weight.mul_(0.1)


class LinearEncoder:
    """The encoder as one matrix: (N, H, W, 3) uint8 to latents (N, C, H/16, W/16)."""

    def __init__(self, vae: AutoencoderTiny) -> None:
        with torch.no_grad():
            basis = torch.eye(768).reshape(768, 16, 16, 3).permute(0, 3, 1, 2)
            images = torch.cat([torch.zeros(1, 3, 16, 16), basis])
            out = vae.encoder(images * 2 - 1).flatten(1) * vae.config.scaling_factor
        self.offset = out[0]  # (C,)
        self.matrix = (out[1:] - out[0]) / 255  # (768, C)

    def __call__(self, pictures: NDArray[np.uint8]) -> Tensor:
        n, h, w, _ = pictures.shape
        blocks = torch.from_numpy(pictures).float().reshape(n, h // 16, 16, w // 16, 16, 3)
        rows = blocks.permute(0, 1, 3, 2, 4, 5).reshape(-1, 768)
        latents = rows @ self.matrix + self.offset
        return latents.reshape(n, h // 16, w // 16, -1).permute(0, 3, 1, 2)

    def inverse(self, latents: Tensor) -> Tensor:
        """Return the least-squares picture (N, 3, H, W) in 0..1 of the latents, without decoder."""
        n, c, h, w = latents.shape
        rows = latents.permute(0, 2, 3, 1).reshape(-1, c) - self.offset
        blocks = rows @ torch.linalg.pinv(self.matrix) / 255
        pixels = blocks.reshape(n, h, w, 16, 16, 3).permute(0, 5, 1, 3, 2, 4)
        return pixels.reshape(n, 3, h * 16, w * 16)
