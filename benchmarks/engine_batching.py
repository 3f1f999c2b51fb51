"""Gain and cost of batching at the model call: ratios from one run on one machine.

    python benchmarks/engine_batching.py [--model demo] [--threads 2] [--steps 25]

* ceiling: rows a second of the bare denoiser, 16 rows against 2 (what a guided image sends);
* throughput: 8 unlike images together against one at a time, through the engine;
* overhead: the engine's own Python per image-step, beside that of the plain pipeline, with a
  denoiser that answers at once (engine_overhead.py).

Times are of the process's own CPU, per thread, so that a busy machine changes them little; on a
GPU they are wall times. Take them with a grain of salt, and the ratios seriously.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.engine_overhead import overhead
from jobs.contract.model_file import load_catalogue
from jobs.settings import ROOT
from worker.engine.batcher import Engine
from worker.engine.collate import run_together
from worker.engine.model import Model
from worker.engine.model_pool import load_model
from worker.engine.signatures import Packed
from worker.messages import EngineConfig, Failed, Finished, ImageRequest

ROUNDS = 5
CALLS = 10
SAMPLERS = ("dpmpp_2m", "euler", "ddim", "unipc", "euler_a", "deis", "dpmpp_3m", "ddpm")


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    config = EngineConfig(catalogue=load_catalogue(options.models), threads=options.threads)
    entry = config.catalogue.get(options.model) or config.catalogue.default
    model = load_model(entry, config)
    verdict = model.promises.at(entry.defaults.width, entry.defaults.height)
    print(f"{model.fingerprint}\n{verdict}")
    found = {
        "fingerprint": model.fingerprint,
        "lane_widths": verdict.lanes.widths,
        "lane_ms": [round(ms, 1) for ms in verdict.lanes.cost_ms],
        "cap_rows": verdict.cap_rows,
        **_gains(model, options.steps),
        **overhead(model, requests_for(model, 50)),
    }
    print(json.dumps(found, indent=1))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--models", type=Path, default=ROOT / "models/models.toml")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=25)
    return parser.parse_args()


def clock_s() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time() / torch.get_num_threads()


def timed(run: Callable[[], object]) -> float:
    started_s = clock_s()
    run()
    return clock_s() - started_s


class Bare:
    """The denoiser itself, nothing around it: the mean of ten calls of each number of rows.

    A picture is a sum of calls, so its time holds the slow ones, too: the best single call would
    be a ceiling that no sum can reach (0.75 of it, when the same run had 0.9 of the mean).
    """

    def __init__(self, model: Model) -> None:
        defaults = model.entry.defaults
        self.call = model._probe(defaults.width, defaults.height)[-1]
        self.call_s: dict[int, list[float]] = {2: [], 4: [], 8: [], 16: []}

    def measure(self) -> float:
        """Return the current gain of 16 rows a call over 2."""
        with torch.no_grad():
            for rows, seen_s in self.call_s.items():
                calls = [self.call] * (rows // self.call.rows)
                seen_s.append(timed(partial(self._repeat, calls, rows)) / CALLS)
        return (16 / self.call_s[16][-1]) / (2 / self.call_s[2][-1])

    @staticmethod
    def _repeat(calls: list[Packed], rows: int) -> None:
        for _ in range(CALLS):
            run_together(calls, (rows,))


def requests_for(model: Model, steps: int) -> list[ImageRequest]:
    """Eight unlike images."""
    defaults = model.entry.defaults
    return [
        ImageRequest(
            id=f"image-{k}",
            model=model.entry.id,
            prompt=f"a red boat on a blue ocean, number {k}",
            negative_prompt="green" if k % 2 else "",
            width=defaults.width,
            height=defaults.height,
            steps=steps + k % 3,
            guidance_scale=3.0 + k,
            seed=k,
            sampler=name,
        )
        for k, name in enumerate(SAMPLERS)
    ]


def _serve(model: Model, requests: list[ImageRequest]) -> list[Finished]:
    engine, done = Engine([model]), list[Finished]()
    for request in requests:
        engine.submit(request)
    while not engine.idle:
        for event in engine.tick():
            assert not isinstance(event, Failed), event
            if isinstance(event, Finished):
                done.append(event)
    return done


def _gains(model: Model, steps: int) -> dict[str, Any]:
    """Run bare and engine in turns, so that other load on the machine affects both; medians."""
    requests, bare = requests_for(model, steps), Bare(model)
    bare.measure()  # the first builds kernels
    ceilings: list[float] = []
    alone_s: list[float] = []
    together_s: list[float] = []
    sizes: list[float] = []
    for _ in range(ROUNDS):
        before = bare.measure()
        singly: list[Finished] = []
        alone_s.append(timed(lambda s=singly: s.extend(_singly(model, requests))))
        company: list[Finished] = []
        together_s.append(timed(lambda c=company: c.extend(_serve(model, requests))))
        ceilings.append((before + bare.measure()) / 2)
        sizes += [end.batch_size_mean for end in company]
        same = {e.id: e.pixels for e in singly} == {e.id: e.pixels for e in company}
        assert same, "a picture differs in company: that is the one thing that must not be"
    gains = [one / eight for one, eight in zip(alone_s, together_s, strict=True)]
    shares = [gain / ceiling for gain, ceiling in zip(gains, ceilings, strict=True)]
    median = statistics.median
    return {
        "bare_call_ms": {rows: round(median(s) * 1000, 1) for rows, s in bare.call_s.items()},
        "bare_gain_16_rows_over_2": round(median(ceilings), 2),
        "images_per_s_one_at_a_time": round(len(requests) / median(alone_s), 2),
        "images_per_s_8_together": round(len(requests) / median(together_s), 2),
        "gain_of_8_together": round(median(gains), 2),
        "of_the_bare_gain": round(median(shares), 2),
        "of_the_bare_gain_by_round": [round(share, 2) for share in shares],
        "batch_size_mean": round(statistics.mean(sizes), 2),
    }


def _singly(model: Model, requests: list[ImageRequest]) -> list[Finished]:
    return [end for request in requests for end in _serve(model, [request])]


if __name__ == "__main__":
    main()
