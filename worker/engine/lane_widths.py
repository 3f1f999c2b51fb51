"""Lanes: the fixed batch widths, in rows, in which a model is called.

Owns the set of widths that give the same bits (found by the self-test) and the division of a
number of rows into them. Knows no module and no tensor. Invariant: an exact call only ever runs
in a width of `widths`, whatever the load; the choice of one changes its time, never its bits.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

NEARLY_BEST = 0.9  # a wider lane for under 10 % more rows a second would only cost latency
POWERS = (1, 2, 4, 8, 16)  # with 3 or 6 rows two threads cut the batch unevenly: other bits


@dataclass(frozen=True, slots=True)
class LaneRule:
    """The widths whose bits agree, ascending, and the milliseconds of a call of each."""

    widths: tuple[int, ...]
    cost_ms: tuple[float, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        assert self.widths, "a lane rule needs a width"
        assert list(self.widths) == sorted(set(self.widths)), f"widths {self.widths}"

    def cut(self, rows: int) -> tuple[int, ...]:
        """Return the cheapest lanes that hold `rows` rows, widest first; the last may be padded."""
        return _cheapest(rows, self.widths, self.cost_ms or _guessed_ms(self.widths))

    @property
    def widest(self) -> int:
        """Rows of the largest single model call."""
        return self.widths[-1]

    @property
    def rows_per_s(self) -> float:
        """Rows a second of the best width; 0 before anything is measured."""
        return max(self._speeds(), default=0.0)

    @property
    def saturated(self) -> int:
        """The narrowest width that gets nearly the most rows a second; wider ones only wait."""
        enough = NEARLY_BEST * self.rows_per_s
        fast = [w for w, speed in zip(self.widths, self._speeds(), strict=False) if speed >= enough]
        return fast[0] if fast else self.widest

    def _speeds(self) -> list[float]:
        return [w * 1000 / ms for w, ms in zip(self.widths, self.cost_ms, strict=False)]


def _guessed_ms(widths: tuple[int, ...]) -> tuple[float, ...]:
    """Estimate ms before any measurement: half of a two-row call is overhead, the rest rows."""
    return tuple(2.0 + width for width in widths)


@lru_cache(maxsize=4096)
def _cheapest(rows: int, widths: tuple[int, ...], cost_ms: tuple[float, ...]) -> tuple[int, ...]:
    """Minimise the cost of `rows`: best[r] = min over widths of cost + best[r - width]."""
    best: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    for need in range(1, rows + 1):
        best.append(
            min(
                (cost + best[max(0, need - width)][0], (*best[max(0, need - width)][1], width))
                for width, cost in zip(widths, cost_ms, strict=True)
            )
        )
    return tuple(sorted(best[rows][1], reverse=True))
