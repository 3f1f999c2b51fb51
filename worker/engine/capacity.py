"""What one model takes at one size: which lanes, what a row costs, how many rows at once.

Owns what the self-test measured there and what was learned since. Knows no pipeline, no tensor.
Invariant: only widths of the verdict are ever used; learning moves times and limits, no bits.
"""

from __future__ import annotations

from worker.engine.errors import DeviceMemoryFull
from worker.engine.lanes import LaneRule
from worker.engine.selftest import Verdict
from worker.messages import ImageRequest

RATE = 0.1  # the weight of a new measurement: one slow moment is no trend
# Lanes are chosen anew when a cost has moved by so much: for less they would only flap.
MOVED = 1.1
UNMEASURED_ROW_MS = 10.0  # a megapixel, before anything of that size has run


class Capacity:
    """The one mutable thing of a (model, size)."""

    def __init__(self, verdict: Verdict, row_ms: float) -> None:
        self.verdict = verdict
        self.packs = verdict.reproducibility != "unpacked"
        self.row_ms = row_ms  # what a row takes in good company, by the clock
        # What a lane of each width costs beside the others; `_pace` is what it costs by the clock.
        self._cost_ms = dict(zip(verdict.lanes.widths, verdict.lanes.cost_ms, strict=False))
        self._pace: float | None = None
        self._fits_rows = verdict.lanes.widest  # into memory, in one model call
        self.decode_bytes: int | None = None  # of one decoding; None until the first
        self._choose()
        if self._cost_ms:
            self.row_ms = self._cost_ms[self.lanes.saturated] / self.lanes.saturated

    def widths_for(self, rows: int, *, exact: bool) -> tuple[int, ...]:
        """The model calls that so many rows go through."""
        return self.lanes.cut(rows) if exact and self.packs else (rows,)

    @property
    def slowest_ms(self) -> float:
        """What the longest call may be expected to take; 0: nobody knows."""
        return (self._pace or 1.0) * max(self.lanes.cost_ms, default=0.0)

    # --- learning

    def learn(self, widths: tuple[int, ...], rows: int, took_s: float) -> None:
        """So many rows took so long in lanes of these widths."""
        took_ms = took_s * 1000
        self.row_ms += RATE * (took_ms / rows - self.row_ms)
        if not all(width in self._cost_ms for width in widths):
            return  # a free batch, or nothing was ever measured
        ratio = took_ms / sum(self._cost_ms[width] for width in widths)
        self._pace = ratio if self._pace is None else self._pace + RATE * (ratio - self._pace)
        # A machine that turned slow slows all widths. Only what differs from that tells a width.
        differs = min(2.0, max(0.5, ratio / self._pace))
        for width in set(widths):
            self._cost_ms[width] *= 1 + RATE * (differs - 1)
            if not 1 / MOVED < self._cost_ms[width] / self._chosen[width] < MOVED:
                self._choose()

    def _choose(self) -> None:
        """Lanes and cap, by what is known now."""
        widths = self.verdict.lanes.widths
        usable = tuple(w for w in widths if w <= self._fits_rows) or widths[:1]
        self._chosen = dict(self._cost_ms)
        self.lanes = LaneRule(usable, tuple(self._chosen[w] for w in usable if w in self._chosen))
        measured = bool(self.lanes.cost_ms)
        # More rows than this in one tick only make the others wait.
        self.cap_rows = min(
            self.lanes.saturated if measured else self.verdict.cap_rows, self.lanes.widest
        )

    # --- memory

    def fit(self, room: int | None) -> None:
        """Keep to lanes that fit into `room` bytes. Raises DeviceMemoryFull if none does."""
        if room is None:
            return
        need, narrowest = self.verdict.need, self.verdict.lanes.widths[0]
        decode = self.decode_bytes or 0
        fits = need.rows_in(room - decode)
        if fits < narrowest:
            raise DeviceMemoryFull(
                f"this size takes {(need.of(narrowest) + decode) >> 20} MiB beside the weights, "
                f"and {max(0, room) >> 20} MiB are left of the engine's memory: ask for a smaller "
                "size, keep fewer models resident, or raise the engine's memory budget"
            )
        self._limit(fits)

    def shed(self, width: int) -> bool:
        """A call of that width ran out of memory: use narrower ones. False: there are none."""
        if not self.packs or width // 2 < self.verdict.lanes.widths[0]:
            return False
        self._limit(width // 2)
        return True

    def _limit(self, rows: int) -> None:
        if rows < self._fits_rows:
            self._fits_rows = rows
            self._choose()


class Capacities:
    """Those of all models and sizes that were asked for."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int, int], dict[Verdict, Capacity]] = {}

    def of(self, request: ImageRequest, verdict: Verdict) -> Capacity:
        """That of this request's model and size."""
        sizes = self._known.setdefault(_size(request), {})
        if verdict not in sizes:  # a ControlNet or a LoRA at the same size has a verdict of its own
            sizes[verdict] = Capacity(verdict, self.row_ms(request))
        return sizes[verdict]

    def row_ms(self, request: ImageRequest) -> float:
        """What a row of such a request takes, as far as is known."""
        sizes = self._known.get(_size(request))
        if not sizes:
            return UNMEASURED_ROW_MS * request.width * request.height / 1e6
        return max(capacity.row_ms for capacity in sizes.values())

    def forget(self, model_id: str) -> None:
        """The model is gone; loaded again, it starts from its verdicts."""
        self._known = {size: c for size, c in self._known.items() if size[0] != model_id}


def _size(request: ImageRequest) -> tuple[str, int, int]:
    return request.model, request.width, request.height
