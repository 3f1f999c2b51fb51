"""Dependence of a row's bits on the batch: by kernel width, and for the widths that are promised.

Letters: a, b, c are bit patterns of one fixed row; `4:b+c` means that in a batch of four its bits
depend on its place or its neighbours.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from worker.engine.collate import run_together
from worker.engine.model import Model
from worker.engine.selftest import Verdict, _batch_of, _first_row, _same, _varied
from worker.engine.signatures import Packed

WIDTHS = (1, 2, 3, 4, 6, 8, 16)
COMPILED_WIDTHS = (1, 2, 4, 8)  # each width is compiled for itself
SHUFFLES = 4


def row_classes(model: Model, size: int, widths: Sequence[int]) -> dict[str, Any]:
    """Tabulate bit patterns: one row of a real call, in batches of every width."""
    with torch.no_grad():
        own = _first_row(model._probe(size, size)[-1])
        seen: list[torch.Tensor] = []
        letters: dict[int, str] = {}
        largest = 0.0
        for width in widths:
            found: set[int] = set()
            for place in sorted({0, width // 2, width - 1}):
                out = _in_company(own, width, place)
                found.add(_pattern(out, seen))
                largest = max(largest, _apart(seen[0], out))
            letters[width] = "+".join("abcdefghij"[min(i, 9)] for i in sorted(found))
    return {
        "classes": " ".join(f"{width}:{letter}" for width, letter in letters.items()),
        "max_difference": largest,
        "scale": float(seen[0].float().abs().max()),
    }


def _in_company(own: Packed, width: int, place: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1000 * width + place)
    company = [_first_row(_varied(own, generator)) for _ in range(width - 1)]
    company.insert(place, own)
    return tree_leaves(run_together(company, [width])[place])[0].clone()


def _pattern(out: torch.Tensor, seen: list[torch.Tensor]) -> int:
    """Return the number of a bit pattern; a new pattern gets the next number."""
    for number, known in enumerate(seen):
        if torch.equal(known, out):
            return number
    seen.append(out)
    return len(seen) - 1


def _apart(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.float() - b.float()).abs().max())


def promise(model: Model, size: int) -> tuple[Verdict, dict[str, Any]]:
    """Report the service's promise at a size, and test it with other batch peers."""
    verdict = model.promises.at(size, size)
    held, tried = _held(model, size, verdict)
    lanes = verdict.lanes
    return verdict, {
        "promises": verdict.reproducibility,
        "lanes": lanes.widths,
        "lane_ms": {w: round(ms, 2) for w, ms in zip(lanes.widths, lanes.cost_ms, strict=False)},
        "cap_rows": verdict.cap_rows,
        "rows_per_s": round(verdict.rows_per_s, 1),
        "held_in_other_company": f"{held} of {tried}",
    }


def _held(model: Model, size: int, verdict: Verdict) -> tuple[int, int]:
    """Run shuffled batches of every promised width; count the results with equal bits."""
    if verdict.reproducibility != "exact":
        return 0, 0
    with torch.no_grad():
        call = model._probe(size, size)[-1]
        calls = _batch_of(call, max(verdict.lanes.widest, 2 * call.rows))
        width = verdict.lanes.widths[0]
        wanted = run_together(calls, [width] * -(-sum(c.rows for c in calls) // width))
        held = tried = 0
        for number in range(SHUFFLES):
            order = list(range(len(calls)))
            random.Random(number).shuffle(order)
            mixed = [calls[i] for i in order]
            for width in verdict.lanes.widths:
                lanes = [width] * -(-sum(c.rows for c in mixed) // width)
                results = run_together(mixed, lanes)
                same = [_same(wanted[i], r) for i, r in zip(order, results, strict=True)]
                held, tried = held + sum(same), tried + len(same)
    return held, tried
