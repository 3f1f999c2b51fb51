"""The list of measurements, most useful first: a killed run has the most useful rows.

Owns the list and the one model that is in memory. Invariant: a model is built when a part first
wants it, and the one before it is gone by then.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from benchmarks.gpu_bits import COMPILED_WIDTHS, WIDTHS, promise, row_classes
from benchmarks.gpu_company import demo, demo_model, graphs, overhead, waits
from benchmarks.gpu_kernels import kernel_parts
from benchmarks.gpu_parts import Part
from benchmarks.gpu_speed import IMAGES, curve, decode, memory
from benchmarks.gpu_subjects import SMALL_SIZE, SUBJECTS, Subject, build
from jobs.contract.model_file import Speed
from worker.engine.model import Model

Found = dict[str, Any]
PLAIN = Speed()


class Bench:
    """The model under test; one at a time."""

    def __init__(self, device: torch.device, *, small: bool) -> None:
        self.device = device
        self.small = small
        # A CPU without bfloat16 of its own takes thirty times as long in it.
        self.own_type, self.other_type = (
            ("float32", "bfloat16") if small else ("bfloat16", "float16")
        )
        self._made_of: object = None
        self._model: Model | None = None

    def model(self, subject: Subject, dtype: str, speed: Speed = PLAIN) -> Model:
        """Return the model, built now or the last one built."""
        return self._have(
            (subject.name, dtype, speed),
            lambda: build(subject, device=self.device, dtype=dtype, small=self.small, speed=speed),
        )

    def demo(self) -> Model:
        """Return the shipped model."""
        return self._have("demo", lambda: demo_model(self.device, small=self.small))

    def sizes(self, subject: Subject) -> tuple[int, ...]:
        """Return the sizes to measure, in px."""
        return (SMALL_SIZE,) if self.small else subject.sizes

    def own_size(self, subject: Subject) -> int:
        """Return the size that a model is made for, in px."""
        return SMALL_SIZE if self.small else subject.own_size

    def _have(self, made_of: object, make: Callable[[], Model]) -> Model:
        if self._model is None or made_of != self._made_of:
            if self._model is not None:
                self._model.close()
            self._model = self._made_of = None
            gc.collect()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            started_s = time.monotonic()
            self._model = make()
            self._made_of = made_of
            print(f"    built in {time.monotonic() - started_s:.1f} s", flush=True)
        return self._model


def parts(device: torch.device, *, small: bool) -> Iterator[Part]:
    """Yield all parts."""
    bench = Bench(device, small=small)
    steps = 2 if small else 25
    together = (2,) if small else (8, 16, 32)
    yield from kernel_parts(device, small=small)
    yield Part("demo", {}, lambda: demo(bench.demo(), together, steps), 60)
    yield _of("graphs", "demo", lambda: graphs(bench.demo(), _demo_size(bench)), "cuda")
    if not small:
        yield _of("overhead", "demo", lambda: overhead(bench.demo(), _demo_size(bench), steps))
    for subject in SUBJECTS:
        yield from _of_subject(bench, subject)
    for subject in SUBJECTS[::2] if small else SUBJECTS:
        yield from _in_other_types(bench, subject)
    for subject in SUBJECTS:
        speed = Speed(compile="regional")
        yield _bits("compiled", bench, subject, bench.own_type, speed, 100)


def _of_subject(bench: Bench, subject: Subject) -> Iterator[Part]:
    """In bfloat16, as the service would run it."""
    model = partial(bench.model, subject, bench.own_type)
    own = bench.own_size(subject)
    tag = {"model": subject.name, "dtype": bench.own_type}
    yield Part("promises", tag | {"px": own}, lambda: promise(model(), own)[1], 60)
    images = IMAGES[:3] if bench.small else IMAGES
    for size in bench.sizes(subject):
        of = tag | {"px": size}
        yield Part("curves", of, lambda s=size: curve(model(), s, images), 40)
    yield Part("decoding", tag | {"px": own}, lambda: decode(model(), own), 15)
    yield Part("memory", tag | {"px": own}, lambda: memory(model(), own), 20)
    yield _bits("bits", bench, subject, bench.own_type, PLAIN, 30)
    if subject.name != "sdxl":  # a UNet and a transformer say it; the third says nothing new
        small = min(bench.sizes(subject))
        steps = 4 if bench.small else 12
        of = tag | {"px": small}
        yield Part("overhead", of, lambda: overhead(model(), small, steps), 40)
        yield Part("waits", of, lambda: waits(model(), small, 4), 40, needs="cuda")
    if subject.name == "sd15":
        yield _of("graphs", subject.name, lambda: graphs(model(), own), "cuda")


def _in_other_types(bench: Bench, subject: Subject) -> Iterator[Part]:
    """In float16, and with channels last where there are convolutions."""
    own, convolves = bench.own_size(subject), subject.name != "flux"
    tag = {"model": subject.name, "dtype": bench.other_type, "px": own}
    if not (bench.small and convolves):
        half = partial(bench.model, subject, bench.other_type)
        yield Part("promises", tag, lambda: promise(half(), own)[1], 60)
        yield _bits("bits", bench, subject, bench.other_type, PLAIN, 30)
        yield Part("decoding", tag, lambda: decode(half(), own), 15)
    if not convolves:
        return
    last = Speed(channels_last=True)
    for dtype in (bench.own_type,) if bench.small else (bench.own_type, bench.other_type):
        of = tag | {"dtype": dtype, "layout": "channels_last"}
        made = partial(bench.model, subject, dtype, last)
        yield Part("promises", of, lambda m=made: promise(m(), own)[1], 60)
        yield _bits("bits", bench, subject, dtype, last, 30)


def _bits(
    table: str, bench: Bench, subject: Subject, dtype: str, speed: Speed, most_s: float
) -> Part:
    # At 512 px a row of Flux takes a third of the time, and its products have other shapes anyway.
    size = min(bench.own_size(subject), 512) if subject.name == "flux" else bench.own_size(subject)
    widths = COMPILED_WIDTHS if speed.compile else WIDTHS
    widths = widths[:4] if bench.small else widths
    of: Found = {"model": subject.name, "dtype": dtype, "px": size}
    of |= {"layout": "channels_last"} if speed.channels_last else {}

    def run() -> Found:
        return row_classes(bench.model(subject, dtype, speed), size, widths)

    return Part(table, of, run, most_s)


def _of(table: str, name: str, run: Callable[[], Found], needs: str = "engine") -> Part:
    return Part(table, {"model": name}, run, 30, needs=needs)


def _demo_size(bench: Bench) -> int:
    return bench.demo().entry.defaults.width
