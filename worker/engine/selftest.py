"""The self-test: find the lane widths that give the same bits, and the cost of each.

Owns the experiment: the rows of one real model call, and of variations of it, go through lanes
of every width, and the bits are compared. Knows no request. Invariant: a width is allowed for
exact work only if every row has, next to other rows in that width, the bits that it has in every
other allowed width.

A test is some sixty model calls. In a service they run one by one, between the calls of images
(`interruptible`); a call that is timed or measured runs unbroken.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from worker.engine.collate import run_together
from worker.engine.interruptible import unbroken
from worker.engine.lane_widths import POWERS, LaneRule
from worker.engine.memory import UNKNOWN, Need, measured, need_of, ran_out, release
from worker.engine.memory_layout import lies_alike
from worker.engine.signatures import LeafRole, Packed
from worker.messages import Reproducibility

TIMED_ROUNDS = 3
BUDGET_S = 4.0  # a size whose rows are slow is tested (and batched) in narrow lanes only
LOOSE = 0.05  # of the output's own scale: beyond this the rows were mixed up, not rounded


@dataclass(frozen=True, slots=True)
class Verdict:
    """The self-test's result for one model at one size."""

    reproducibility: Reproducibility
    lanes: LaneRule
    cap_rows: int  # more rows in one tick only make other images wait
    rows_per_s: float
    need: Need = UNKNOWN  # memory of one model call
    patterns: frozenset[str] = field(default=frozenset(), compare=False)  # of the calls tested


UNTESTED = Verdict("unpacked", LaneRule((1,)), cap_rows=1, rows_per_s=0.0)


def self_test(call: Packed, pinned_width: int | None = None) -> Verdict:
    """Test lane widths on a real model call; takes some seconds at most."""
    with torch.no_grad():
        widths = (pinned_width,) if pinned_width else _affordable_widths(call)
        trials = _trials(call, widths)
        _time(trials.values())
        if not _rows_stay_apart(call, trials[max(trials)]):
            return UNTESTED
        verdict = _verdict(trials, _widths_alike(trials, call.rows), _need(call, trials))
        return replace(verdict, patterns=frozenset({call.form.pattern}))


def _trials(call: Packed, widths: Sequence[int]) -> dict[int, _Trial]:
    """Run trials, narrowest first, while memory allows; raise if not even the first fits."""
    trials: dict[int, _Trial] = {}
    for width in widths:
        try:
            trials[width] = _Trial(call, width, widths[-1])
        except Exception as error:
            if not ran_out(error) or not trials:
                raise
            release(error)
            break
    return trials


def _need(call: Packed, widths: Collection[int]) -> Need:
    """Measure a call's memory by rows, from the narrowest and the widest lane."""
    peaks: dict[int, int] = {}
    for width in {min(widths), max(widths)}:
        calls = _batch_of(call, width)
        lanes = [width] * -(-sum(c.rows for c in calls) // width)
        with unbroken():
            _, peaks[width] = measured(partial(run_together, calls, lanes), call.device)
    return need_of(peaks)


class _Trial:
    """All test rows in lanes of one width: the results, and the milliseconds of a lane."""

    def __init__(self, call: Packed, width: int, total_rows: int) -> None:
        calls = _batch_of(call, max(total_rows, 2 * call.rows))
        self.width = width
        self.cost_ms = math.inf
        self._device = call.device
        self._full = _batch_of(call, width)
        self.results = self._run(calls)
        # In reverse order every row is at another position, beside other rows.
        turned = self._run(calls[::-1])[::-1]
        alone = self._run(calls[:1])
        alike = all(map(_same, self.results, turned))
        self.batch_invariant = alike and _same(alone, self.results[:1])

    def _run(self, calls: Sequence[Packed]) -> list[Any]:
        lanes = -(-sum(call.rows for call in calls) // self.width)
        return run_together(calls, [self.width] * lanes)

    def time(self) -> None:
        """Time a full lane, and keep the least of all times."""
        lanes = -(-sum(call.rows for call in self._full) // self.width)
        with unbroken():
            started_s = _device_s(self._device)
            self._run(self._full)
            took_s = _device_s(self._device) - started_s
        self.cost_ms = min(self.cost_ms, took_s * 1000 / lanes)


def _time(trials: Collection[_Trial]) -> None:
    """Time in rounds: a slow moment then hits all widths; noise only ever adds to a time."""
    for _ in range(TIMED_ROUNDS):
        for trial in trials:
            trial.time()


def _device_s(device: torch.device) -> float:
    """Return a clock of the device's work in seconds: on a CPU, this process's own time."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time() / torch.get_num_threads()


def _affordable_widths(call: Packed) -> tuple[int, ...]:
    """Return the widths that can be tested within BUDGET_S, narrowest first.

    Each width is measured before the next is considered: judged by its two-row call alone, a small
    model on a slow CPU was denied the lane of 16 rows that gave it half as many images again.
    """
    run_together([call], (call.rows,))  # the first call pays for kernels being built
    lane_s: dict[int, float] = {}
    for width in POWERS:
        if width < call.rows:
            continue
        if lane_s and _trials_s(lane_s | {width: 2 * lane_s[max(lane_s)]}) > BUDGET_S:
            break  # a row never costs more in a wider lane: at most twice its half
        try:
            lane_s[width] = _lane_s(call, width)
        except Exception as error:
            if not ran_out(error) or not lane_s:
                raise
            release(error)
            break
    return tuple(lane_s)


def _lane_s(call: Packed, width: int) -> float:
    """Return the seconds of one full lane, the lesser of two: the first may build kernels."""
    trial_s: list[float] = []
    calls, device = _batch_of(call, width), call.device
    for _ in range(2):
        with unbroken():
            started_s = _device_s(device)
            run_together(calls, (width,))
            trial_s.append(_device_s(device) - started_s)
    return min(trial_s)


def _trials_s(lane_s: Mapping[int, float]) -> float:
    """Estimate the seconds of all trials: the widest's rows twice, one call, and timing."""
    rows = max(lane_s)
    return sum((2 * rows / width + 1 + TIMED_ROUNDS) * s for width, s in lane_s.items())


def _batch_of(call: Packed, rows: int) -> list[Packed]:
    """Make calls of `rows` rows in total: the call, variations of it, and single rows."""
    generator = torch.Generator().manual_seed(0)
    calls = [call]
    while (room := rows - sum(c.rows for c in calls)) > 0:
        varied = _varied(call, generator)
        fits = varied if varied.rows <= room and room > 2 else _first_row(varied)
        calls.append(fits)
    return calls


def _varied(call: Packed, generator: torch.Generator) -> Packed:
    """Make a call as of another image: other latents, other text, another time."""

    def vary(leaf: Any, part: LeafRole) -> Any:
        if part is LeafRole.TIME:
            return torch.as_tensor(leaf) * 0.5
        if part is LeafRole.ITEMS:
            return [vary(item, LeafRole.ROWS) for item in leaf]
        if part is LeafRole.ROWS and isinstance(leaf, torch.Tensor) and leaf.is_floating_point():
            noise = torch.randn(leaf.shape, generator=generator).to(leaf)
            return leaf * 0.9 + noise * leaf.std(unbiased=False) * 0.4
        return leaf

    leaves = [vary(leaf, part) for leaf, part in zip(call.leaves, call.form.parts, strict=True)]
    return replace(call, leaves=leaves)


def _first_row(call: Packed) -> Packed:
    def first(leaf: Any, part: LeafRole) -> Any:
        one_each = isinstance(leaf, list) or (isinstance(leaf, torch.Tensor) and leaf.dim() > 0)
        return leaf[:1] if part is not LeafRole.SHARED and one_each else leaf

    leaves = [first(leaf, part) for leaf, part in zip(call.leaves, call.form.parts, strict=True)]
    return replace(call, rows=1, leaves=leaves)


def _rows_stay_apart(call: Packed, widest: _Trial) -> bool:
    """Return whether a row in a batch equals the row alone but for rounding (LOOSE)."""
    alone = run_together([call], (call.rows,))[0]
    pairs = zip(tree_leaves(alone), tree_leaves(widest.results[0]), strict=True)
    return all(_near(a, b) for a, b in pairs if isinstance(a, torch.Tensor))


def _near(a: torch.Tensor, b: torch.Tensor) -> bool:
    scale = float(a.float().abs().max()) or 1.0
    return float((a.float() - b.float()).abs().max()) <= LOOSE * scale


def _widths_alike(trials: dict[int, _Trial], own_rows: int) -> tuple[int, ...]:
    """Return the most useful set of widths whose bits agree; () if none repeats its own bits."""
    classes: list[list[_Trial]] = []
    for trial in trials.values():
        if not trial.batch_invariant:
            continue
        for members in classes:
            if all(map(_same, members[0].results, trial.results)):
                members.append(trial)
                break
        else:
            classes.append([trial])
    widths = [tuple(t.width for t in members) for members in classes]
    # First choice: the bits of a plain pipeline call, if that allows batches at all.
    plain = [c for c in widths if own_rows in c and (len(c) > 1 or len(trials) == 1)]
    return plain[0] if plain else max(widths, key=lambda c: c[-1], default=())


def _verdict(trials: dict[int, _Trial], alike: tuple[int, ...], need: Need) -> Verdict:
    widths = alike or tuple(trials)
    rule = LaneRule(widths, tuple(trials[width].cost_ms for width in widths))
    return Verdict("exact" if alike else "tolerance", rule, rule.saturated, rule.rows_per_s, need)


def _same(a: Any, b: Any) -> bool:
    """Compare bits and memory order: both influence the rest of the pipeline."""
    return all(
        torch.equal(x, y) and lies_alike(x, y)
        for x, y in zip(tree_leaves(a), tree_leaves(b), strict=True)
        if isinstance(x, torch.Tensor)
    )
