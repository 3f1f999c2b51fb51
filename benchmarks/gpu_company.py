"""The engine on the device: the demo model in batches, the cost of its Python code, CUDA graphs.

`overhead` is the question whether coroutines can stay: their Python must hide behind the device's
work, so that a tick of the engine takes what the bare model call takes.
"""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from benchmarks.gpu_speed import images_of, least_ms, wait
from benchmarks.gpu_subjects import a_request
from jobs.contract.model_file import load_catalogue
from jobs.settings import ROOT
from worker.engine.batcher import Engine
from worker.engine.capacity import Capacity
from worker.engine.collate import run_together
from worker.engine.gates import Kind
from worker.engine.model import Model
from worker.engine.model_pool import load_model
from worker.messages import EngineConfig, Failed, Finished, ImageRequest

TOGETHER = 8  # images whose overhead is looked at
SAMPLERS = ("dpmpp_2m", "euler", "ddim", "unipc", "euler_a", "deis", "dpmpp_3m", "ddpm")
FLOW_SAMPLERS = ("flow_euler", "flow_dpmpp_2m", "flow_unipc")


def demo_model(device: torch.device, *, small: bool) -> Model:
    """Load the shipped model as the service does; `small`: at its smallest size."""
    catalogue = load_catalogue(ROOT / "models/models.toml")
    entry = catalogue.default
    if small:
        side = entry.limits.min_side
        defaults = entry.defaults.model_copy(update={"width": side, "height": side})
        entry = entry.model_copy(update={"defaults": defaults})
    return load_model(entry, EngineConfig(catalogue=catalogue, device=str(device)))


def served(engine: Engine, requests: Sequence[ImageRequest]) -> dict[str, Finished]:
    """Run all requests together, to the end."""
    done: dict[str, Finished] = {}
    for request in requests:
        engine.submit(request)
    while not engine.idle:
        for event in engine.tick():
            assert not isinstance(event, Failed), event
            if isinstance(event, Finished):
                done[event.id] = event
    return done


def unlike(model: Model, images: int, steps: int) -> list[ImageRequest]:
    """Return requests that share only the model and the size."""
    size = model.entry.defaults.width
    return [
        replace(a_request(model, size, k, steps=steps + k % 3), sampler=SAMPLERS[k % len(SAMPLERS)])
        for k in range(images)
    ]


def demo(model: Model, together: Sequence[int], steps: int) -> Iterator[dict[str, Any]]:
    """Measure images a second alone and in a batch, and whether the batch changed a bit."""
    device = model.pipeline.device
    requests = unlike(model, max(together), steps)
    served(Engine([model]), requests[:2])  # kernels, the self-test

    def timed(run: Callable[[], dict[str, Finished]]) -> tuple[float, dict[str, Finished]]:
        wait(device)
        started_s = time.perf_counter()
        done = run()
        wait(device)
        return time.perf_counter() - started_s, done

    def one_by_one() -> dict[str, Finished]:
        engine, done = Engine([model]), dict[str, Finished]()
        for request in requests[:singly]:
            done |= served(engine, [request])
        return done

    singly = min(8, len(requests))
    alone_s, alone = timed(one_by_one)
    yield {"together": 1, "images_per_s": singly / alone_s, "gain": 1.0}
    for images in together:
        took_s, done = timed(lambda n=images: served(Engine([model]), requests[:n]))
        same = [done[name].pixels == end.pixels for name, end in alone.items() if name in done]
        sizes = [end.batch_size_mean for end in done.values()]
        yield {
            "together": images,
            "images_per_s": images / took_s,
            "gain": images / took_s / (singly / alone_s),
            "images_a_call": sum(sizes) / len(sizes),
            "bits_as_alone": f"{sum(same)} of {len(same)}",
            "promised": next(iter(done.values())).reproducibility,
        }


# --- what the engine's Python costs


def overhead(model: Model, size: int, steps: int) -> dict[str, Any]:
    """Measure the denoising of 8 images through the engine, beside the same model calls bare.

    `python_ms`: a call's share of the pipelines' and the engine's own work, with a denoiser that
    answers at once.
    """
    device, capacity = model.pipeline.device, Capacity(model.promises.at(size, size), row_ms=1.0)
    requests = [a_request(model, size, k, steps=steps) for k in range(TOGETHER)]
    with torch.no_grad():
        call = model._probe(size, size)[-1]
        group = max(1, min(TOGETHER, capacity.cap_rows // call.rows))
        calls = images_of(call, group)
        widths = capacity.widths_for(group * call.rows, exact=True)

        def bare() -> None:
            for _ in range(steps):
                run_together(calls, widths)

        bare_ms = least_ms(bare, device, times=2) / steps
    _denoised(model, requests)
    engine_ms = min(_denoised(model, requests) for _ in "12") * group
    gates = [gate for gate in model.gates if gate.kind is Kind.ROWS]
    real = [gate.run for gate in gates]
    try:
        for gate in gates:
            gate.run = _at_once
        python_ms = min(_denoised(model, requests) for _ in "12") * group
    finally:
        for gate, run in zip(gates, real, strict=True):
            gate.run = run
    return {
        "images": TOGETHER,
        "images_a_call": group,
        "bare_ms": round(bare_ms, 3),
        "engine_ms": round(engine_ms, 3),
        "python_ms": round(python_ms, 3),
        "engine_over_bare": round(engine_ms / bare_ms, 3),
    }


def _at_once(*args: Any, **arguments: Any) -> tuple[torch.Tensor]:
    return (args[0] if args else next(iter(arguments.values())),)


def _denoised(model: Model, requests: Sequence[ImageRequest]) -> float:
    """Return ms an image and model call, from the first denoiser call to the first decoding."""
    device, engine = model.pipeline.device, Engine([model])
    for request in requests:
        engine.submit(request)
    engine.tick()
    while any(live.kind is not Kind.ROWS for live in engine._live.values()):
        engine.tick()
    before = sum(live.call.calls for live in engine._live.values())
    wait(device)
    started_s = time.perf_counter()
    while all(live.kind is Kind.ROWS for live in engine._live.values()):
        engine.tick()
    wait(device)
    took_ms = (time.perf_counter() - started_s) * 1000
    calls = sum(live.call.calls for live in engine._live.values()) - before
    engine.close()
    return took_ms / calls


def waits(model: Model, size: int, steps: int) -> Iterator[dict[str, Any]]:
    """Count the waits for the device in an image's step, by sampler and place."""
    names = FLOW_SAMPLERS if model.samplers.names[0].startswith("flow") else SAMPLERS
    for name in names:
        requests = [replace(a_request(model, size, k, steps=steps), sampler=name) for k in range(2)]
        _denoised(model, requests)
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            torch.set_warn_always(True)
            torch.cuda.set_sync_debug_mode("warn")
            try:
                _denoised(model, requests)
            finally:
                torch.cuda.set_sync_debug_mode("default")
                torch.set_warn_always(False)
        places = Counter(
            f"{Path(w.filename).name}:{w.lineno}" for w in seen if "synchroniz" in str(w.message)
        )
        count = sum(places.values())
        yield {
            "sampler": name,
            "waits_per_image_step": round(count / (len(requests) * steps), 2),
            "where": dict(places.most_common(4)),
        }


# --- one CUDA graph a lane


def graphs(model: Model, size: int) -> dict[str, Any]:
    """Measure a lane's model call as one CUDA graph, beside the same call in Python."""
    device, verdict = model.pipeline.device, model.promises.at(size, size)
    eager: dict[int, float] = {}
    replayed: dict[int, float] = {}
    same = True
    with torch.no_grad():
        call = model._probe(size, size)[-1]
        for width in verdict.lanes.widths:
            lane = _Lane(call, width)
            eager[width] = least_ms(lane.run, device, times=5)
            wanted = lane.run()
            replay = lane.captured(device)
            replayed[width] = least_ms(replay, device, times=5)
            out = replay()
            same = same and all(map(torch.equal, tree_leaves(wanted), tree_leaves(out)))
    return {
        "eager_ms": {w: round(ms, 3) for w, ms in eager.items()},
        "graph_ms": {w: round(ms, 3) for w, ms in replayed.items()},
        "gain": {w: round(eager[w] / replayed[w], 2) for w in eager},
        "same_bits": same,
    }


class _Lane:
    """The arguments of one model call of a fixed width, at a fixed place in memory."""

    def __init__(self, call: Any, width: int) -> None:
        images = images_of(call, max(1, width // call.rows))
        device = model_device(call)
        seen: list[dict[str, Any]] = []
        real = call.gate.run
        try:
            call.gate.run = lambda **arguments: seen.append(arguments) or real(**arguments)
            run_together(images, [width])
        finally:
            call.gate.run = real
        leaves, self._spec = tree_flatten(seen[0])
        self._run = real
        # A copy from the CPU cannot be captured: all that is read lies on the device.
        self._leaves = [
            leaf.to(device).clone() if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves
        ]

    def run(self) -> Any:
        return self._run(**tree_unflatten(self._leaves, self._spec))

    def captured(self, device: torch.device) -> Callable[[], Any]:
        """Run the graph, with the copying of new rows into its input."""
        side = torch.cuda.Stream(device)
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            for _ in range(3):
                self.run()
        torch.cuda.current_stream(device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = self.run()
        tensors = [leaf for leaf in self._leaves if isinstance(leaf, torch.Tensor)]
        fresh = [leaf.clone() for leaf in tensors]

        def replay() -> Any:
            for place, new in zip(tensors, fresh, strict=True):
                place.copy_(new)
            graph.replay()
            return out

        return replay


def model_device(call: Any) -> torch.device:
    """Return the device of the call's rows."""
    return next(leaf for leaf in call.leaves if isinstance(leaf, torch.Tensor)).device
