"""Whose turn it is: which parked calls run next, together.

Owns the choice of one group for one tick. Knows no tensor: it compares signatures and counts
rows. Invariant: an odd size never blocks the others and is never starved, for the group that
runs is the one of the most urgent image, and urgency grows with age.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from worker.engine.admission import urgency
from worker.engine.gates import Kind
from worker.engine.live import Live
from worker.messages import ImageRequest

Work = Callable[[ImageRequest], float]  # in megapixel-rows


def next_group(lives: Sequence[Live], *, work: Work, pace_s: float, now_s: float) -> list[Live]:
    """Encoding first (it brings company), decoding next (it lets one go), then rows."""
    for kind in (Kind.ENCODE, Kind.DECODE):
        for live in lives:
            if live.kind is kind:
                return [live]

    def by_urgency(live: Live) -> tuple[float, float]:
        remaining_s = work(live.call.request) * live.left * pace_s
        waited_s = now_s - live.since_s
        return urgency(live.call.request, remaining_s=remaining_s, waited_s=waited_s)

    groups: dict[object, list[Live]] = {}
    for live in sorted(lives, key=by_urgency):
        groups.setdefault(_meeting_place(live), []).append(live)
    # Dicts keep order: the first group holds the most urgent image of all.
    return next((_capped(group) for group in groups.values()), [])


def lanes_of(group: Sequence[Live]) -> tuple[int, ...]:
    """The widths of the model calls that a group's rows go through."""
    rows, first = sum(live.rows for live in group), group[0]
    if first.verdict.reproducibility == "unpacked" or not first.call.request.exact:
        return (rows,)
    return first.verdict.lanes.cut(rows)


def _meeting_place(live: Live) -> object:
    """Calls with the same one may run together; it holds nothing of steps, seed or sampler."""
    if live.packed is None or live.verdict.reproducibility == "unpacked":
        return live.id
    return live.packed.signature, live.call.request.exact


def _capped(group: list[Live]) -> list[Live]:
    """The most urgent that fit the cap; two-row calls first, so that no lane cuts one apart."""
    rows, chosen = 0, list[Live]()
    for live in group:
        rows += live.rows
        if chosen and rows > live.verdict.cap_rows:
            break
        chosen.append(live)
    return sorted(chosen, key=lambda live: -live.rows)
