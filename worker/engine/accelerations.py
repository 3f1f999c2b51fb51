"""Options that trade bits, memory or start-up time for speed: off unless a model entry asks.

Owns their application to a pipeline that was just loaded, and their words in the fingerprint: each
changes which kernels run. Knows no batch. Invariant: an option that cannot be had here stops the
load and names what is missing; none is left out in silence.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from diffusers.quantizers.pipe_quant_config import PipelineQuantizationConfig
from torch._dynamo import config as dynamo_config

from jobs.contract.model_file import Speed
from worker.engine.errors import ModelBroken
from worker.engine.profiles.base import Profile

MANY_SHAPES = 1 << 16

# backend and its arguments, and the package that brings it
QUANTIZATIONS: dict[str, tuple[str, dict[str, Any], str]] = {
    "nf4": (
        "bitsandbytes_4bit",
        {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
        "bitsandbytes",
    ),
    "int8": ("bitsandbytes_8bit", {"load_in_8bit": True}, "bitsandbytes"),
}


def words(speed: Speed) -> str:
    """Return the options in use as a word of the fingerprint; empty: none."""
    used = {name: value for name, value in speed if value}
    return "+".join(n if value is True else f"{n}:{value}" for n, value in used.items())


def quantization(speed: Speed, profile: Profile) -> PipelineQuantizationConfig | None:
    """Return the quantization for `from_pretrained`; raise ModelBroken without its package."""
    if speed.quantize is None:
        return None
    backend, arguments, package = QUANTIZATIONS[speed.quantize]
    if find_spec(package) is None:
        raise ModelBroken(f"quantize = {speed.quantize!r} needs {package}: pip install {package}")
    return PipelineQuantizationConfig(
        quant_backend=backend,
        quant_kwargs=arguments,
        components_to_quantize=[n for n in profile.denoisers if n != "controlnet"],
    )


def apply(speed: Speed, pipeline: Any, profile: Profile) -> None:
    """Switch on the options that change the modules themselves. Raises ModelBroken."""
    denoisers = [d for n in profile.denoisers if (d := getattr(pipeline, n, None)) is not None]
    vae = getattr(pipeline, profile.decoder, None)
    if speed.channels_last:
        for module in (*denoisers, *([vae] if vae is not None else [])):
            module.to(memory_format=torch.channels_last)
    for wanted, method in ((speed.vae_tiling, "tiling"), (speed.vae_slicing, "slicing")):
        if wanted:
            _call(vae, f"enable_{method}", f"vae_{method}")
    for denoiser in denoisers:
        if speed.attention is not None:
            _call(denoiser, "set_attention_backend", "attention", speed.attention)
        if speed.compile is not None:
            # Regional: one block is compiled and used for all its repetitions. In lanes there is
            # one shape a size and width, so that each is compiled once. Left to itself, torch
            # compiles the second width it meets for all others: which code a width then runs, and
            # with it its bits, hangs on what came first in this process.
            _call(denoiser, "compile_repeated_blocks", "compile", dynamic=False)
            _never_give_up()


def _never_give_up() -> None:
    """Raise torch's limit of 8 shapes, after which a block runs uncompiled, with other bits.

    A UNet has 4 sizes of block, times 5 widths: 20 shapes for one size of image.
    """
    dynamo_config.recompile_limit = dynamo_config.accumulated_recompile_limit = MANY_SHAPES


def _call(module: Any, method: str, option: str, *arguments: str, **options: bool) -> None:
    switch = getattr(module, method, None)
    if switch is None:
        raise ModelBroken(f"{option}: {type(module).__name__} has no such option")
    try:
        switch(*arguments, **options)
    except (ValueError, RuntimeError, ImportError, NotImplementedError) as error:
        raise ModelBroken(f"{option}: {type(module).__name__}: {error}") from error
