"""Ceiling: what the machine could make if nothing but the networks cost anything.

Owns the bare loop: denoiser calls at each batch size, decoding and text encoding, without sampler,
queue or HTTP. In a process of its own: `-m benchmarks.side_by_side.ceiling MODEL THREADS SIDE`.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from diffusers import StableDiffusionPipeline

WIDTHS = (2, 4, 8, 16, 32, 64)
CALLS = 8


def measured(folder: str, threads: int, side: int) -> dict[str, Any]:
    """Return ms of a model call by rows, and the images/s of 25 guided steps at the best."""
    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    pipe = StableDiffusionPipeline.from_pretrained(
        folder, torch_dtype=torch.float32, safety_checker=None
    )
    latent = side // pipe.vae_scale_factor
    words = pipe.encode_prompt("a red house", "cpu", 1, do_classifier_free_guidance=False)[0]
    channels = pipe.unet.config.in_channels

    def call(rows: int) -> Callable[[], Any]:
        noise = torch.randn(rows, channels, latent, latent)
        context = words.expand(rows, -1, -1).contiguous()
        return lambda: pipe.unet(noise, 500, encoder_hidden_states=context)

    ms = {rows: _ms(call(rows)) for rows in WIDTHS}
    decode = _ms(lambda: pipe.vae.decode(torch.randn(8, channels, latent, latent))) / 8
    text = _ms(lambda: pipe.encode_prompt("a red house", "cpu", 1, True, negative_prompt=""))
    best = min(WIDTHS, key=lambda rows: ms[rows] / rows)
    image_ms = 25 * 2 * ms[best] / best + decode + text
    return {
        "call_ms": {str(rows): round(one, 1) for rows, one in ms.items()},
        "decode_ms_an_image": round(decode, 1),
        "text_ms": round(text, 1),
        "best_rows": best,
        "images_per_s": round(1000 / image_ms, 3),
    }


def _ms(run: Callable[[], Any]) -> float:
    run()
    times: list[float] = []
    for _ in range(CALLS):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1000


if __name__ == "__main__":
    print(json.dumps(measured(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
