"""Time of model calls by number of images, time of a decoding, and their memory.

Times are wall times between two waits for the device, the least of a few.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from benchmarks.gpu_subjects import a_request
from worker.engine.capacity import Capacity
from worker.engine.collate import run_together
from worker.engine.errors import Dropped
from worker.engine.gates import Kind, ModelCall
from worker.engine.memory import measured
from worker.engine.model import Model
from worker.engine.selftest import _batch_of
from worker.engine.signatures import Packed

IMAGES = (1, 2, 4, 8, 16)
STEPS = 30  # of a picture, where images a second are told
TOO_SLOW_S = 3.0  # a model call beyond this says nothing that the one before did not
GAIN = 1.1  # another doubling pays while it brings 10 % more images


def wait(device: torch.device) -> None:
    """Wait until the device has finished all work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def least_ms(run: Callable[[], object], device: torch.device, times: int = 3) -> float:
    """Return the least time of a few, in ms, after a warm-up."""
    best = math.inf
    for number in range(times + 1):
        wait(device)
        started_s = time.perf_counter()
        run()
        wait(device)
        took_s = time.perf_counter() - started_s
        if number or took_s > 1:
            best = min(best, took_s * 1000)
        if took_s > 1:
            break
    return best


def curve(model: Model, size: int, images: Sequence[int]) -> dict[str, Any]:
    """Measure model calls by number of images, in the lanes that the service would use."""
    capacity = Capacity(model.promises.at(size, size), row_ms=1.0)
    device = model.pipeline.device
    with torch.no_grad():
        call = model._probe(size, size)[-1]
        ms: dict[int, float] = {}
        for number in images:
            calls = images_of(call, number)
            widths = capacity.widths_for(number * call.rows, exact=True)
            ms[number] = least_ms(lambda c=calls, w=widths: run_together(c, w), device)
            if 2 * ms[number] > TOO_SLOW_S * 1000:
                break
        decode_ms = _decode_ms(model, size)
    speeds = {n: n * 1000 / took for n, took in ms.items()}
    return {
        "rows_per_image": call.rows,
        "step_ms": {n: round(took, 2) for n, took in ms.items()},
        "image_steps_per_s": {n: round(speed, 1) for n, speed in speeds.items()},
        "gain_over_one": {n: round(speed / speeds[1], 2) for n, speed in speeds.items()},
        "cap_images_by_us": max(1, capacity.cap_rows // call.rows),
        "cap_images_by_curve": _saturated(speeds),
        f"images_per_s_at_{STEPS}_steps": {
            n: round(n * 1000 / (STEPS * took + n * decode_ms), 3) for n, took in ms.items()
        },
    }


def _saturated(speeds: dict[int, float]) -> int:
    """Return the fewest images from which doubling brings under 10 % more."""
    sizes = list(speeds)
    for few, more in itertools.pairwise(sizes):
        if speeds[more] < GAIN * speeds[few]:
            return few
    return sizes[-1]


def images_of(call: Packed, images: int) -> list[Packed]:
    """Return the calls of so many images: the given call, and unlike calls made from it."""
    whole = [c for c in _batch_of(call, 2 * images * call.rows + 1) if c.rows == call.rows]
    return whole[:images]


@contextmanager
def parked_decode(model: Model, size: int) -> Any:
    """Yield a decoding as the pipeline itself does it, types and scales included."""
    call = model.call_for(a_request(model, size, 0, steps=1))
    call.start(0.0)
    with torch.no_grad():
        while call.parked and call.parked.gate.kind is not Kind.DECODE:
            call.answer(call.parked.gate.run(**call.parked.arguments), batch_size=1)
    if call.parked is None:
        raise call.error or RuntimeError("the pipeline never decoded")
    try:
        yield call.parked
    finally:
        call.throw(Dropped())


def _run(call: ModelCall) -> Any:
    return call.gate.run(**call.arguments)


def _decode_ms(model: Model, size: int) -> float:
    with parked_decode(model, size) as parked, torch.no_grad():
        return least_ms(lambda: _run(parked), model.pipeline.device)


def decode(model: Model, size: int) -> dict[str, Any]:
    """Measure one decoding beside one denoiser row in a large batch."""
    capacity = Capacity(model.promises.at(size, size), row_ms=1.0)
    with parked_decode(model, size) as parked, torch.no_grad():
        latents = next(iter(parked.arguments.values()))
        device = model.pipeline.device
        took_ms = least_ms(lambda: _run(parked), device)
        _, peak = measured(lambda: _run(parked), device)
    return {
        "vae_dtype": str(latents.dtype).removeprefix("torch."),
        "decode_ms": round(took_ms, 2),
        "row_ms": round(capacity.row_ms, 3),
        "rows_worth": round(took_ms / capacity.row_ms, 2),
        "decode_mib": peak >> 20,
    }


def memory(model: Model, size: int) -> dict[str, Any]:
    """Measure the peak memory of model calls and a decoding, beside the capacity's estimate."""
    verdict, device = model.promises.at(size, size), model.pipeline.device
    believed: dict[int, int] = {}
    taken: dict[int, int] = {}
    with torch.no_grad():
        call = model._probe(size, size)[-1]
        for width in verdict.lanes.widths:
            calls = _batch_of(call, max(width, call.rows))
            lanes = [width] * -(-sum(c.rows for c in calls) // width)
            _, peak = measured(lambda c=calls, w=lanes: run_together(c, w), device)
            taken[width], believed[width] = peak >> 20, verdict.need.of(width) >> 20
        with parked_decode(model, size) as parked:
            _, decoding = measured(lambda: _run(parked), device)
    found: dict[str, Any] = {
        "weights_mib": model.weight_bytes >> 20,
        "rows_mib": taken,
        "believed_mib": believed,
        "decode_mib": decoding >> 20,
    }
    if device.type == "cuda":
        free, whole = torch.cuda.mem_get_info(device)
        found |= {
            "allocated_now_mib": torch.cuda.memory_allocated(device) >> 20,
            "reserved_now_mib": torch.cuda.memory_reserved(device) >> 20,
            "outside_torch_mib": (whole - free - torch.cuda.memory_reserved(device)) >> 20,
            "device_mib": whole >> 20,
        }
    return found
