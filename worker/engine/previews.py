"""Previews: a small, cheap estimate of the finished image from the current latents.

Owns the estimate of the clean latents from what the sampler is given at a step, and the linear map
from latents to colours. Knows no batch and no message. Invariant: a preview reads and never writes:
it draws no random number of the image's, and an image's bits are the same with and without it.

Letters: C latent channels; h, w sides of the latents; f pixels of the picture a latent cell; k of
them a cell in the preview (1 <= k <= f).

The map is fitted once a model, by least squares, on its own VAE's latents of a few drawn images:
no table of constants per family, and a VAE that is nearly linear (as the demo model's) is shown
nearly as it is. One encoding of 4 pictures of 16 x 16 cells: 30 ms for the demo on one core.
"""

from __future__ import annotations

import functools
import logging
from typing import Any

import torch
from torch.nn.functional import avg_pool2d, interpolate, pixel_shuffle, pixel_unshuffle

from worker.messages import Pixels

log = logging.getLogger(__name__)
LONGEST_SIDE = 256  # px of a preview
CELLS, PICTURES = 16, 4  # what the map is fitted on: 1,024 cells


class ColourMap:
    """The linear map of one model: (C, h, w) latents, as the denoiser knows them, to RGB."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, cell: int) -> None:
        """`weight`: (3 * f * f, C), in the order of `pixel_shuffle`; `cell`: f."""
        self._weight, self._bias, self._cell = weight, bias, cell
        self._at: dict[tuple[int, torch.device], tuple[torch.Tensor, torch.Tensor]] = {}

    @property
    def channels(self) -> int:
        """C."""
        return self._weight.shape[1]

    def __call__(self, latents: torch.Tensor) -> torch.Tensor:
        """(C, h, w) floats to (3, h * k, w * k) floats, about 0 to 1, on the same device."""
        k = self._scale(max(latents.shape[1:]))
        weight, bias = self._for(k, latents.device)
        colours = torch.einsum("oc,chw->ohw", weight, latents.float()) + bias[:, None, None]
        return pixel_shuffle(colours[None], k)[0]

    def _scale(self, side: int) -> int:
        k = self._cell
        while k > 1 and side * k > LONGEST_SIDE:
            k //= 2
        return k

    def _for(self, k: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        if (k, device) not in self._at:
            both = torch.cat([self._weight, self._bias[:, None]], dim=1).T  # (C + 1, 3 * f * f)
            cells = pixel_shuffle(both.reshape(-1, 3 * self._cell**2, 1, 1), self._cell)
            pooled = pixel_unshuffle(avg_pool2d(cells, self._cell // k), k)[..., 0, 0].T
            self._at[k, device] = pooled[:, :-1].to(device), pooled[:, -1].to(device)
        return self._at[k, device]


def fit(vae: Any) -> ColourMap:
    """Fit the colour map of a VAE: least squares from latents to the encoded images.

    Raises ValueError for Flux.2's, whose latents are scaled by statistics of their place in 2 x 2.
    """
    if hasattr(vae, "bn"):
        raise ValueError("latents of this VAE are not alike in every cell")
    cell = _cell_of(vae)
    pictures = _drawn(cell * CELLS)
    weights = next(vae.parameters())
    latents = _encoded(vae, (pictures * 2 - 1).to(weights.device, weights.dtype)).double().cpu()
    seen = latents.permute(0, 2, 3, 1).reshape(-1, latents.shape[1])
    wanted = pixel_unshuffle(pictures, cell).permute(0, 2, 3, 1).reshape(len(seen), -1).double()
    ones = torch.ones(len(seen), 1, dtype=torch.double)
    found = torch.linalg.lstsq(torch.cat([seen, ones], dim=1), wanted).solution  # (C + 1, 3ff)
    return ColourMap(found[:-1].T.float().contiguous(), found[-1].float(), cell)


def _cell_of(vae: Any) -> int:
    """f: each level of a VAE but the last halves the sides."""
    compression = getattr(vae.config, "spatial_compression_ratio", None) or getattr(
        vae, "spatial_compression_ratio", None
    )
    if compression:
        return int(compression)
    levels = (
        getattr(vae.config, "block_out_channels", None) or vae.config.encoder_block_out_channels
    )
    return 2 ** (len(levels) - 1)


def _encoded(vae: Any, pictures: torch.Tensor) -> torch.Tensor:
    """(B, C, h, w) latents of (B, 3, H, W) pictures from -1 to 1, as the denoiser knows them."""
    video = len(next(p.shape for p in vae.parameters() if p.dim() > 3)) == 5
    made = vae.encode(pictures[:, :, None] if video else pictures)
    if hasattr(made, "latent_dist"):
        latents = made.latent_dist.mode()
    else:
        latents = made.latents if hasattr(made, "latents") else made.latent
    config = vae.config
    if getattr(config, "latents_mean", None) and getattr(config, "latents_std", None):
        mean, std = (
            torch.tensor(v, device=latents.device).view(1, -1, *[1] * (latents.dim() - 2))
            for v in (config.latents_mean, config.latents_std)
        )
        latents = (latents - mean) / std
    else:
        shift = getattr(config, "shift_factor", None) or 0.0
        latents = (latents - shift) * (getattr(config, "scaling_factor", None) or 1.0)
    return latents[:, :, 0] if latents.dim() == 5 else latents


def _drawn(side: int) -> torch.Tensor:
    """(B, 3, side, side) from 0 to 1: soft colours at several scales, and hard-edged rectangles."""
    generator = torch.Generator().manual_seed(0)
    pictures = torch.zeros(PICTURES, 3, side, side)
    for grid, weight in ((4, 0.5), (16, 0.3), (64, 0.2)):
        noise = torch.rand(PICTURES, 3, grid, grid, generator=generator)
        pictures += weight * interpolate(noise, size=(side, side), mode="bilinear")
    for picture in pictures:
        for _ in range(24):
            top, left, high, wide = (
                int(v * side) for v in torch.rand(4, generator=generator) * 0.5
            )
            colour = torch.rand(3, 1, 1, generator=generator)
            picture[:, top * 2 : top * 2 + high, left * 2 : left * 2 + wide] = colour
    return pictures.clamp(0, 1)


class Preview:
    """The previews of one image: watches its sampler, computes when one is due."""

    def __init__(self, colours: ColourMap, width: int, height: int) -> None:
        """Of a picture of these sides in px; `colours`: its model's map."""
        self._colours = colours
        self._shape = width / height
        self._rgb: torch.Tensor | None = None  # (3, H, W), 8 bits, on its way to the CPU
        self._arrived: Any = None  # CUDA's event of that copy; None: it is there
        self.due = True

    def watch(self, sampler: Any) -> None:
        """Wrap each step of `sampler`, which is this image's own."""
        step = sampler.step

        @functools.wraps(step)  # pipelines look at the signature
        def seen(model_output: Any, timestep: Any, sample: Any, *args: Any, **kwargs: Any) -> Any:
            if self.due:
                self._look(sampler, model_output, timestep, sample)
            return step(model_output, timestep, sample, *args, **kwargs)

        sampler.step = seen

    def take(self) -> Pixels | None:
        """Return the preview made since the last call, if its copy to the CPU is done."""
        if self._rgb is None or (self._arrived is not None and not self._arrived.query()):
            return None
        picture = self._rgb.permute(1, 2, 0).contiguous().numpy()
        self._rgb = self._arrived = None
        return Pixels(width=picture.shape[1], height=picture.shape[0], data=picture.tobytes())

    def _look(self, sampler: Any, output: Any, timestep: Any, sample: Any) -> None:
        self.due = False
        try:
            clean = as_grid(clean_latents(sampler, output, timestep, sample), self._shape)
            if clean.shape[0] != self._colours.channels:
                return  # latents of a kind that we do not know: no preview
            rgb = (self._colours(clean) * 255).round().clamp(0, 255).to(torch.uint8)
            # Not waited for: on a GPU the copy is done long before the next step is.
            self._rgb = rgb.to("cpu", non_blocking=True)
            if rgb.is_cuda:
                self._arrived = torch.cuda.Event()
                self._arrived.record(torch.cuda.current_stream(rgb.device))
        except Exception:  # a preview may fail; its picture must not
            log.warning("engine.no_preview", exc_info=True)


def clean_latents(sampler: Any, output: Any, timestep: Any, sample: Any) -> torch.Tensor:
    """Estimate the finished latents at this step, from the arguments of `sampler.step`.

    Samplers differ in how they scale the noisy sample; all agree on what the network predicted.
    """
    output, sample = output.float(), sample.float()
    if hasattr(sampler, "precondition_outputs"):  # EDM
        return sampler.precondition_outputs(sample, output, _sigma(sampler))
    cumulated = getattr(sampler, "alphas_cumprod", None)
    if cumulated is None or getattr(sampler.config, "prediction_type", "") == "flow_prediction":
        return sample - _sigma(sampler) * output
    at = min(max(round(float(timestep)), 0), len(cumulated) - 1)
    alpha, noise = float(cumulated[at]) ** 0.5, (1 - float(cumulated[at])) ** 0.5
    if float(sampler.init_noise_sigma) > 1.5:  # x = clean + sigma * noise: larger by 1 / alpha
        sample = sample * alpha
    match sampler.config.prediction_type:
        case "v_prediction":
            return alpha * sample - noise * output
        case "sample":
            return output
        case _:
            return (sample - noise * output) / alpha


def _sigma(sampler: Any) -> float:
    index = sampler.step_index
    if index is None:  # set by the first step itself
        index = sampler.begin_index or 0
    return float(sampler.sigmas[index])


def as_grid(latents: torch.Tensor, shape: float) -> torch.Tensor:
    """(C, h, w) of one image's latents: a grid, a video of one frame, or rows of 2 x 2 cells.

    `shape`: width by height of the picture.
    """
    if latents.dim() == 3:  # (1, h * w / 4, C * 4), as Flux and its kin pack them
        cells, channels = latents.shape[1], latents.shape[2] // 4
        high = max(1, round((cells / shape) ** 0.5))
        wide = cells // high
        grid = latents[0].reshape(high, wide, channels, 2, 2).permute(2, 0, 3, 1, 4)
        return grid.reshape(channels, high * 2, wide * 2)
    return latents[0, :, 0] if latents.dim() == 5 else latents[0]
