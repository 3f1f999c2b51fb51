"""A family that breaks on purpose, for tests of everything around the engine.

A model entry switches it on with `family = "tests.engine.faults:FAULTS"`; nothing else does, and
no product setting names it. What goes wrong is asked for in the prompt, `!KIND@STEP`, at the end
of that step (from 0) of that image's own pipeline call:

    !raise@1   the pipeline raises           !kill@1   SIGKILL to the engine process
    !nan@1     the latents turn to NaN       !exit@1   the process exits with code 7
    !oom@1     the device's memory is full   !hang@1   the process never comes back
    !slow@0    every step takes 50 ms more: time for a test to do something meanwhile

`Cramped` makes the device itself too small for a while, for tests that hold the model.
`write_model_file(folder)` makes a model folder and a model file for it.
"""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from jobs.contract.model_file import Catalogue, load_catalogue
from tests.engine.tiny import SIDE, tiny_pipeline
from worker.engine.gates import Kind
from worker.engine.model import Model
from worker.engine.profiles.base import Arguments, Profile
from worker.messages import ImageRequest

ASKED = re.compile(r"!(raise|nan|oom|kill|exit|hang|slow)@(\d+)")
SLOW_S = 0.05
ROW = 4 * (SIDE // 2) ** 2  # latent values of one row of the tiny model at its usual size

MODEL_FILE = """
[[model]]
id = "tiny"
source = "tiny"
family = "tests.engine.faults:FAULTS"
lane_width = 2
defaults = {{ width = {side}, height = {side}, steps = 4, guidance_scale = 5.0, sampler = "ddim" }}
limits = {{ min_side = 8, max_side = 64, side_multiple = 8, max_steps = 500 }}
"""


class FaultyProfile(Profile):
    """Stable Diffusion, and whatever the prompt asks to go wrong."""

    def arguments(self, request: ImageRequest, pipeline: Any) -> Arguments:
        asked = ASKED.findall(request.prompt)
        arguments = super().arguments(request, pipeline)
        return arguments | {"callback_on_step_end": _after_step(asked)} if asked else arguments


FAULTS = FaultyProfile(
    name="faults", load={"safety_checker": None, "requires_safety_checker": False}
)


def _after_step(asked: list[tuple[str, str]]) -> Callable[..., dict[str, Any]]:
    def after(_pipeline: Any, step: int, _time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        for kind, at in asked:
            if kind == "slow" or step == int(at):
                tensors = _go_wrong(kind, tensors)
        return tensors

    return after


def _go_wrong(kind: str, tensors: dict[str, Any]) -> dict[str, Any]:
    match kind:
        case "raise":
            raise RuntimeError("asked to raise")
        case "nan":
            return {"latents": tensors["latents"] * float("nan")}
        case "oom":
            raise torch.OutOfMemoryError("asked to run out of memory")
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit":
            os._exit(7)
        case "hang":
            threading.Event().wait()
        case _:
            threading.Event().wait(SLOW_S)
    return tensors


def write_model_file(folder: Path) -> Path:
    """A tiny random model and a model file that names it; its path."""
    tiny_pipeline().save_pretrained(folder / "tiny", safe_serialization=True)
    path = folder / "models.toml"
    path.write_text(MODEL_FILE.format(side=SIDE))
    return path


def faulty_catalogue(folder: Path) -> Catalogue:
    """The same, read."""
    return load_catalogue(write_model_file(folder))


class Cramped:
    """A device too small: calls of more than so many latent values run out of its memory."""

    def __init__(self, model: Model, kind: Kind, *, values: int, times: int = 1_000_000) -> None:
        self.gate = next(gate for gate in model.gates if gate.kind is kind)
        self.real = self.gate.run
        self.values = values
        self.times = times  # then there is room again
        self.widths: list[int] = []  # rows of every call that was tried

    def __enter__(self) -> Cramped:
        self.gate.run = self
        return self

    def __exit__(self, *_: object) -> None:
        self.gate.run = self.real

    def __call__(self, *args: object, **arguments: object) -> object:
        latents = (*args, *arguments.values())[0]
        self.widths.append(len(latents))
        if latents.numel() > self.values and self.times:
            self.times -= 1
            raise torch.OutOfMemoryError("asked to be too small")
        return self.real(*args, **arguments)
