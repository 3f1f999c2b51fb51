"""A model that breaks as devices and kernels break: asked for in the prompt, `!KIND@STEP`.

For a whole worker: its model file names `family = "tests.fault.breaking:BREAKING"`, and nothing of
the product does. Beside the kinds of tests/engine/faults.py:

    !sticky@1  the device is broken for good, as after an illegal address: every later call fails
    !eat@1     memory is taken until the kernel's OOM killer comes (where no limit is: SIGKILL)
    !flat@0    the picture is one flat colour
    !crowd@4   the denoiser runs out of memory whenever more than 4 rows meet

`!once` in the same prompt: it happens to the first that asks, never again. What happened is
remembered as a file in the folder that BREAKING_ONCE names, for the process may not survive it.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.engine.faults import FaultyProfile
from tests.engine.faults import _go_wrong as go_wrong
from tests.engine.tiny import SIDE, tiny_pipeline
from worker.engine.profiles.base import Arguments, Profile
from worker.messages import ImageRequest

KINDS = "raise|nan|oom|kill|exit|hang|slow|sticky|eat|flat|crowd"
ASKED = re.compile(rf"!({KINDS})@(\d+)")
MOST_EATEN_MB = 500
FLAT = 123.0  # latents that the decoder answers with one colour

# "tiny" has one lane width, so that its test takes a moment; "wide" has all that the self-test
# finds, and is loaded when it is asked for, not again at each respawn.
MODEL_FILE = """
[[model]]
id = "{id}"
source = "tiny"
family = "tests.fault.breaking:BREAKING"
{lanes}
defaults = {{ width = {side}, height = {side}, steps = 4, guidance_scale = 5.0, sampler = "ddim" }}
limits = {{ min_side = 8, max_side = 64, side_multiple = 8, max_steps = 500 }}
"""


class BreakingProfile(FaultyProfile):
    """Stable Diffusion, and whatever the prompt asks to go wrong."""

    def arguments(self, request: ImageRequest, pipeline: Any) -> Arguments:
        asked = ASKED.findall(request.prompt)
        arguments = Profile.arguments(self, request, pipeline)
        if not asked or ("!once" in request.prompt and not first_time(request.prompt)):
            return arguments
        for kind, at in asked:
            if kind == "crowd":
                crowd(pipeline.unet, int(at))
            if kind == "flat":
                flatten(pipeline.vae)
        return arguments | {"callback_on_step_end": _after_step(asked)}


BREAKING = BreakingProfile(
    name="breaking", load={"safety_checker": None, "requires_safety_checker": False}
)


def first_time(prompt: str) -> bool:
    """Whether this has not happened yet; from now on it has."""
    mark = Path(os.environ["BREAKING_ONCE"]) / re.sub(r"\W+", "-", prompt)
    if mark.exists():
        return False
    mark.touch()
    return True


def _after_step(asked: list[tuple[str, str]]) -> Callable[..., dict[str, Any]]:
    def after(_pipeline: Any, step: int, _time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        for kind, at in asked:
            if kind == "slow" or (step == int(at) and kind != "crowd"):
                tensors = _break(kind, tensors)
        return tensors

    return after


def _break(kind: str, tensors: dict[str, Any]) -> dict[str, Any]:
    match kind:
        case "sticky":
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
        case "eat":
            eaten = [bytearray(b"\1") * (50 << 20) for _ in range(MOST_EATEN_MB // 50)]
            os.kill(os.getpid(), signal.SIGKILL)  # no limit here: as the kernel would
            return {"latents": tensors["latents"] * len(eaten)}
        case "flat":
            return {"latents": torch.full_like(tensors["latents"], FLAT)}
        case _:
            return go_wrong(kind, tensors)


def crowd(denoiser: Any, most_rows: int) -> None:
    """From now on this denoiser has no memory for more rows than that."""
    gate = denoiser.forward
    real = gate.run

    def run(*args: Any, **kwargs: Any) -> Any:
        rows = next(iter([*args, *kwargs.values()])).shape[0]
        if rows > most_rows:
            raise torch.OutOfMemoryError(f"told to: {rows} rows do not fit")
        return real(*args, **kwargs)

    gate.run = run


def flatten(decoder: Any) -> None:
    """From now on latents of that one value become a picture of one colour."""
    gate = decoder.decode
    real = gate.run

    def run(*args: Any, **kwargs: Any) -> Any:
        latents = next(iter([*args, *kwargs.values()]))
        picture, *rest = real(*args, **kwargs)
        flat = bool((latents == latents.flatten()[0]).all())
        return (picture * 0 if flat else picture, *rest)

    gate.run = run


def write_model_file(folder: Path) -> Path:
    """A tiny random model and a model file that names it twice; its path."""
    tiny_pipeline().save_pretrained(folder / "tiny", safe_serialization=True)
    path = folder / "models.toml"
    both = (("tiny", "lane_width = 2"), ("wide", "resident = false"))
    path.write_text("".join(MODEL_FILE.format(id=i, lanes=w, side=SIDE) for i, w in both))
    return path
