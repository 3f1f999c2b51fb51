"""Whose turn it is: which parked calls run next, together.

Owns the choice of one group for one tick. Knows no tensor: it compares places, where a place is
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

# Encoding brings company, decoding lets one go; both are short.
ALONE_FIRST = (Kind.ENCODE, Kind.DECODE)


class Turns:
    """What each place has had so far, while several compete."""

    def __init__(self) -> None:
        self._shares = Shares()
        self._competing: set[Hashable] = set()

    def next_group(self, lives: Sequence[Live], now_s: float) -> list[Live]:
        """The images whose parked calls run now, those with more rows first; [] if none live."""
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
    """Each key's one vote, split over its images of the highest level."""
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
    """As many as the cap allows; two-row calls first, so that no lane cuts one apart."""
    if not lives:
        return []
    cap, rows = lives[0].capacity.rows_now, sum(live.rows for live in lives)
    chosen = list(lives) if rows <= cap else _within(cap, _dealt(lives, now_s))
    return sorted(chosen, key=lambda live: -live.rows)


def _dealt(lives: Sequence[Live], now_s: float) -> list[Live]:
    """Every key's most urgent image, then every key's second, and so on."""
    ranked = sorted(lives, key=lambda live: live.urgency(now_s))
    if len({live.call.request.key for live in ranked}) == 1:
        return ranked
    hands: Counter[str] = Counter()
    rounds: list[tuple[int, Live]] = []
    for live in ranked:
        hands[live.call.request.key] += 1
        rounds.append((hands[live.call.request.key], live))
    return [live for _, live in sorted(rounds, key=lambda dealt: dealt[0])]


def _within(cap: int, lives: Sequence[Live]) -> list[Live]:
    """The first ones whose rows fit; always one."""
    chosen, rows = [lives[0]], lives[0].rows
    for live in lives[1:]:
        rows += live.rows
        if rows > cap:
            break
        chosen.append(live)
    return chosen
