"""Choose the group of parked model calls that run next, as one batch.

Owns the choice of one group for one tick. Knows no tensor: places are compared, where a place is
what calls have in common that may run together (model, size, kind of call).
Invariant: an odd size never blocks the others and is never starved. Places take turns by deficit
round robin: every key has one vote, split over its most urgent images, and a place gets the
device's time in proportion to the votes of its images.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence

from worker.engine.active_image import Live
from worker.engine.admission import Shares
from worker.engine.gates import Kind

# An encoded image can join a batch, a decoded one frees its place; both calls are short.
ALONE_FIRST = (Kind.ENCODE, Kind.DECODE)


class Turns:
    """Choice of the next group: device time that each place has had, while several compete."""

    def __init__(self) -> None:
        self._shares = Shares()
        self._competing: set[Hashable] = set()

    def next_group(self, lives: Sequence[Live], now_s: float) -> list[Live]:
        """Return the images whose parked calls run now, most rows first; [] if none is live."""
        if alone := [live for live in lives if live.packed is None]:
            return [min(alone, key=lambda live: ALONE_FIRST.index(live.kind))]
        places: defaultdict[Hashable, list[Live]] = defaultdict(list)
        for live in lives:
            places[live.place].append(live)
        if len(places) < 2:
            self._competing.clear()
            self._shares.forget()
            return _capped(lives, now_s)
        votes = _votes(lives, now_s)
        place = self._least_served(votes)
        group = _capped(places[place], now_s)
        self._shares.charge(place, sum(live.rows_ms for live in group) / votes[place])
        return group

    def _least_served(self, votes: Mapping[Hashable, float]) -> Hashable:
        for newcomer in votes.keys() - self._competing:
            self._shares.join(newcomer, votes.keys() & self._competing)
        self._competing = set(votes)
        return min(votes, key=self._shares.served)


def _votes(lives: Sequence[Live], now_s: float) -> Mapping[Hashable, float]:
    """Return the votes per place: one vote a key, split over its images of the top level."""
    by_key: defaultdict[str, list[Live]] = defaultdict(list)
    for live in lives:
        by_key[live.call.request.key].append(live)
    votes: defaultdict[Hashable, float] = defaultdict(float)
    for own in by_key.values():
        top = max(live.level(now_s) for live in own)
        voters = [live for live in own if live.level(now_s) == top]
        for live in voters:
            votes[live.place] += 1 / len(voters)
    return votes


def _capped(lives: Sequence[Live], now_s: float) -> list[Live]:
    """Return as many as the cap allows, two-row calls first, so that no lane cuts one apart."""
    if not lives:
        return []
    cap, rows = lives[0].capacity.rows_now, sum(live.rows for live in lives)
    chosen = list(lives) if rows <= cap else _within(cap, _dealt(lives, now_s))
    return sorted(chosen, key=lambda live: -live.rows)


def _dealt(lives: Sequence[Live], now_s: float) -> list[Live]:
    """Order images in rounds: every key's most urgent, then every key's second, and so on."""
    ranked = sorted(lives, key=lambda live: live.urgency(now_s))
    if len({live.call.request.key for live in ranked}) == 1:
        return ranked
    counts: Counter[str] = Counter()
    rounds: list[tuple[int, Live]] = []
    for live in ranked:
        counts[live.call.request.key] += 1
        rounds.append((counts[live.call.request.key], live))
    return [live for _, live in sorted(rounds, key=lambda dealt: dealt[0])]


def _within(cap: int, lives: Sequence[Live]) -> list[Live]:
    """Return the leading images whose rows fit into `cap`; always at least one."""
    chosen, rows = [lives[0]], lives[0].rows
    for live in lives[1:]:
        rows += live.rows
        if rows > cap:
            break
        chosen.append(live)
    return chosen
