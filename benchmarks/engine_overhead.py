"""Cost of a step of one image in Python: the pipeline's own, and the engine's.

With a denoiser that answers at once, what is left of a step is Python. Three figures an image-step:

* plain: one image after the other, each in its own pipeline call, no engine;
* added: what a step takes beyond that with eight images live. In turns with seven others the
  pipelines' own code is slower than alone, as the processor's caches hold less of it;
* own: the engine's code alone: a tick without what the pipelines did in it, and with the switches
  to and from each.

All at the machine's better moments: the first tenth of many steps, the least of a few rounds.
"""

from __future__ import annotations

import copy
import itertools
import math
import statistics
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from worker.engine.batcher import Engine
from worker.engine.gates import Gate, Kind
from worker.engine.image_call import ImageCall
from worker.engine.lane_widths import LaneRule
from worker.engine.model import Model
from worker.engine.selftest import Verdict
from worker.messages import ImageRequest

ROUNDS = 7
TOGETHER = (1, 2, 4, 8)  # images a model call, of eight
SWITCHES = 1000


def overhead(model: Model, requests: Sequence[ImageRequest]) -> dict[str, Any]:
    """Return the microseconds of an image-step, by the number of images in a call."""
    requests = [replace(request, sampler="euler") for request in requests]
    plain_us, added_us, own_us = math.inf, _unknown(), _unknown()
    with _answering_at_once(model) as calls_s:
        for _ in range(ROUNDS):
            plain_us = min(plain_us, _least_us(_gaps(calls_s, lambda: _plainly(model, requests))))
            for images in TOGETHER:
                with _sharing(model, requests[0], images):
                    ticks: list[float] = []
                    gaps = _gaps(calls_s, lambda t=ticks, i=images: _serve(model, requests, i, t))
                added_us[images] = min(added_us[images], _least_us(gaps) / images)
                own_us[images] = min(own_us[images], _least_us(ticks))
    switch_us = min(_switch_us() for _ in range(ROUNDS))
    return {
        "plain_us_per_image_step": round(plain_us),
        "added_us_per_image_step": _told({n: us - plain_us for n, us in added_us.items()}),
        "own_us_per_image_step": _told({n: us + switch_us for n, us in own_us.items()}),
    }


def _unknown() -> dict[int, float]:
    return dict.fromkeys(TOGETHER, math.inf)


def _told(by_images: dict[int, float]) -> dict[str, int]:
    return {f"{images} of 8 a call": round(us) for images, us in by_images.items()}


def _least_us(seconds: list[float]) -> float:
    return statistics.quantiles(seconds, n=10)[0] * 1e6


@contextmanager
def _answering_at_once(model: Model) -> Iterator[list[float]]:
    """Nothing is denoised and nothing decoded; gives the moments of the denoiser's calls."""
    denoiser = next(gate for gate in model.gates if gate.kind is Kind.ROWS)
    decoder = next(gate for gate in model.gates if gate.kind is Kind.DECODE)
    side, real = model.pipeline.vae_scale_factor, (denoiser.run, decoder.run)
    calls_s: list[float] = []

    def denoised(*args: Any, **arguments: Any) -> tuple[torch.Tensor]:
        calls_s.append(time.perf_counter())
        return (args[0] if args else next(iter(arguments.values())),)

    def decoded(*args: Any, **arguments: Any) -> tuple[torch.Tensor]:
        small = (args[0] if args else next(iter(arguments.values())))[:, :3]
        return (small.repeat_interleave(side, 2).repeat_interleave(side, 3),)

    denoiser.run, decoder.run = denoised, decoded
    yield calls_s
    denoiser.run, decoder.run = real


def _gaps(calls_s: list[float], run: Callable[[], None]) -> list[float]:
    """Return the seconds between the denoiser's calls in that run."""
    calls_s.clear()
    run()
    return [b - a for a, b in itertools.pairwise(calls_s)]


@contextmanager
def _sharing(model: Model, request: ImageRequest, images: int) -> Generator[None]:
    """Set the capacity as if the self-test had found that so many guided images fill a call."""
    verdicts = model.promises._verdicts
    name = f"{request.width}x{request.height}"
    rule = LaneRule((2 * images,))
    pretended = Verdict("exact", rule, cap_rows=2 * images, rows_per_s=0.0)
    verdicts[name], real = pretended, verdicts[name]
    yield
    verdicts[name] = real


def _plainly(model: Model, requests: Sequence[ImageRequest]) -> None:
    for request in requests:
        pipeline = copy.copy(model.pipeline)
        generator = torch.Generator().manual_seed(request.seed)
        pipeline.scheduler = model.samplers.take(request.sampler, generator)
        arguments = model.profile.arguments(request, pipeline)
        pipeline(**arguments, generator=generator, output_type="np")


def _serve(model: Model, requests: Sequence[ImageRequest], images: int, ticks: list[float]) -> None:
    """Make them; of each tick with a full call, the engine's own seconds an image."""
    engine = Engine([model])
    for request in requests:
        engine.submit(request)
    with _inside() as inside_s:
        while not engine.idle:
            inside_s.clear()
            started_s = time.perf_counter()
            engine.tick()
            took_s = time.perf_counter() - started_s
            if len(inside_s) == images and engine.live == len(requests):
                ticks.append((took_s - sum(inside_s)) / images)


@contextmanager
def _inside() -> Iterator[list[float]]:
    """Yield the seconds of the pipelines' own code, from each answer to the next model call."""
    inside_s: list[float] = []
    real = ImageCall.answer

    def answer(call: ImageCall, result: Any, *, batch_size: int) -> None:
        started_s = time.perf_counter()
        real(call, result, batch_size=batch_size)
        inside_s.append(time.perf_counter() - started_s)

    ImageCall.answer = answer
    yield inside_s
    ImageCall.answer = real


def _switch_us() -> float:
    """Return the microseconds between an answer and the next model call of an idle pipeline."""
    gate = Gate(torch.nn.Identity(), "forward", Kind.ROWS)

    def calls() -> Any:
        for _ in range(SWITCHES):
            gate(0)
        return torch.zeros(1, 1, 3).numpy()

    request = ImageRequest(
        id="switch", model="", prompt="", width=8, height=8, steps=1, guidance_scale=1.0, seed=0,
        sampler="",
    )  # fmt: skip
    call = ImageCall(request, calls, expected_calls=SWITCHES)
    call.start(0.0)
    started_s = time.perf_counter()
    with torch.no_grad():
        while not call.ended:
            call.answer(None, batch_size=1)
    return (time.perf_counter() - started_s) / SWITCHES * 1e6
