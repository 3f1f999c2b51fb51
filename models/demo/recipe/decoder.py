"""Training of the VAE's decoder: latents are fixed, so only pixels are learnt.

Trained on 64-pixel crops first, where a step is cheap, then on whole pictures, where borders are
true. A little noise on the latents stands for what the UNet gets slightly wrong.
"""

import random
import time
from pathlib import Path
from typing import Final

import numpy as np
import torch
import torch.nn.functional as functional
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from torch import Tensor

from models.demo.recipe import scenes
from models.demo.recipe.vae import LinearEncoder

LEARNING_RATE: Final = 2e-3
LATENT_NOISE: Final = 0.06
CROP_CELLS: Final = 4
WHOLE_PICTURES: Final = 0.25  # the last part of the time
HELD_OUT_PICTURES: Final = 64


def train_decoder(vae: AutoencoderTiny, state: Path, *, minutes: float, device: str) -> None:
    rng = random.Random()
    encoder = LinearEncoder(vae)
    decoder = vae.decoder.to(device)
    optimizer = torch.optim.AdamW(
        decoder.parameters(), LEARNING_RATE, betas=(0.9, 0.99), weight_decay=1e-3, fused=True
    )
    started, saved, steps = time.monotonic(), 0.0, 0
    while (spent := (time.monotonic() - started) / (60 * minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1, (steps + 1) / 100, 0.01 + (1 - spent) / 0.6)
        latents, pixels = _batch(encoder, rng, whole=spent > 1 - WHOLE_PICTURES)
        latents, pixels = latents.to(device), pixels.to(device)
        noisy = latents + LATENT_NOISE * torch.randn_like(latents)
        loss = _loss(decoder(noisy / vae.config.scaling_factor), pixels)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
        steps += 1
        if time.monotonic() - started > saved:
            saved += 60
            print(
                f"decoder step {steps}  loss {loss.item():.4f}  "
                f"PSNR {psnr(vae, encoder):.2f} dB  {spent:.0%}",
                flush=True,
            )
            save_vae(vae, state)
    save_vae(vae, state)
    print(f"decoder done: {steps} steps, PSNR {psnr(vae, encoder):.2f} dB", flush=True)


def save_vae(vae: AutoencoderTiny, state: Path) -> None:
    torch.save(vae.state_dict(), state / "vae.part")
    (state / "vae.part").rename(state / "vae.pt")


@torch.no_grad()
def psnr(vae: AutoencoderTiny, encoder: LinearEncoder, pictures: int = HELD_OUT_PICTURES) -> float:
    """Return the mean PSNR in dB over held-out scenes, the same in every call."""
    rng = random.Random("held-out pictures")
    drawn = [scenes.draw_scene(rng, held_out=True) for _ in range(pictures)]
    truth = np.stack([scenes.render(scene, rng) for scene in drawn])
    device = next(vae.decoder.parameters()).device
    latents = encoder(truth).to(device) / vae.config.scaling_factor
    made = (vae.decoder(latents).clamp(-1, 1).cpu() + 1) / 2
    error = (made - torch.from_numpy(truth).permute(0, 3, 1, 2) / 255) ** 2
    return (-10 * torch.log10(error.mean((1, 2, 3)))).mean().item()


def _batch(encoder: LinearEncoder, rng: random.Random, *, whole: bool) -> tuple[Tensor, Tensor]:
    drawn = [scenes.draw_scene(rng, held_out=False) for _ in range(4 if whole else 8)]
    pictures = np.stack([scenes.render(scene, rng) for scene in drawn])
    latents = encoder(pictures)
    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
    if whole:
        return latents, pixels
    crops = [(k, rng.randrange(5), rng.randrange(5)) for k in range(8) for _ in range(2)]
    c = CROP_CELLS
    return (
        torch.stack([latents[k, :, y : y + c, x : x + c] for k, y, x in crops]),
        torch.stack(
            [pixels[k, :, 16 * y : 16 * (y + c), 16 * x : 16 * (x + c)] for k, y, x in crops]
        ),
    )


def _loss(made: Tensor, truth: Tensor) -> Tensor:
    edges = sum(functional.l1_loss(made.diff(dim=d), truth.diff(dim=d)) for d in (-1, -2))
    return functional.l1_loss(made, truth) + 2 * functional.mse_loss(made, truth) + 0.5 * edges
