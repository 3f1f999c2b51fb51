"""Capacity of one model at one size: its lanes, the cost of a row, the most rows at once.

Owns the self-test's measurements and those learned since. Knows no pipeline, no tensor.
Invariant: only widths of the verdict are ever used; learning moves times and limits, no bits.

A self-test is one look, at a moment when the machine may have been busy: once it took 8 rows for
hardly faster than 4, and images were made 4 rows at a time at 0.6 of the speed, for as long as
the engine lived, since a width that is never used is never measured. So now and then the next
wider one is tried. It costs nothing but a moment's latency: those rows had to run anyway. What
memory forbids, it forbids for as long as it is short: with more room more rows run again.
"""

from __future__ import annotations

from collections import OrderedDict

from worker.engine.errors import DeviceMemoryFull
from worker.engine.lane_widths import LaneRule
from worker.engine.selftest import Verdict
from worker.messages import ImageRequest

RATE = 0.1  # the least weight of a new measurement: one slow moment is no trend
LOOK_EVERY = 8  # calls; a wrong cap is mended within a picture or two
# Lanes are chosen anew when a cost has moved by so much: for less they would only flap.
MOVED = 1.1
# After a call that ran out: 64 calls are two or three pictures, 4,096 an hour of a slow model.
CALLS_BEFORE_MORE, MOST_CALLS_BEFORE_MORE = 64, 4096
SIZES_KEPT, VERDICTS_KEPT = 256, 32  # of models and sizes; of networks at one size
UNMEASURED_ROW_MS = 10.0  # a megapixel, before anything of that size has run

Size = tuple[str, int, int]  # model, width, height


class Capacity:
    """The mutable state of a (model, size)."""

    def __init__(self, verdict: Verdict, row_ms: float) -> None:
        self.verdict = verdict
        self.packs = verdict.reproducibility != "unpacked"
        self.row_ms = row_ms  # wall time of a row in a full batch
        # What a lane of each width costs beside the others; `_pace` is what it costs by the clock.
        self._cost_ms = dict(zip(verdict.lanes.widths, verdict.lanes.cost_ms, strict=False))
        self._pace: float | None = None
        self._seen = dict.fromkeys(self._cost_ms, 1)  # measurements of each width, the test's first
        self._until_look = LOOK_EVERY
        self._fits_rows = verdict.lanes.widest  # into the memory that is left, in one model call
        self._shed = _Shed(verdict.lanes.widest)
        self.decode_bytes: int | None = None  # of one decoding; None until the first
        self._choose()
        if self._cost_ms:
            self.row_ms = self._cost_ms[self.lanes.saturated] / self.lanes.saturated

    @property
    def rows_now(self) -> int:
        """Rows that may run in this tick: the cap or, to try it, the next wider width."""
        wider = [w for w in self.lanes.widths if w > self.cap_rows]
        return wider[0] if wider and self._looks else self.cap_rows

    def widths_for(self, rows: int, *, exact: bool) -> tuple[int, ...]:
        """Return the widths of the model calls that run `rows` rows."""
        if not (exact and self.packs):
            return (rows,)
        holding = [w for w in self.lanes.widths if w >= rows]
        return (holding[0],) if holding and self._looks else self.lanes.cut(rows)

    @property
    def _looks(self) -> bool:
        """True when a width that is not believed to be best is due to be tried."""
        return self._until_look <= 0 and self.packs and bool(self._cost_ms)

    @property
    def slowest_ms(self) -> float:
        """Expected milliseconds of the longest call; 0: unknown."""
        return (self._pace or 1.0) * max(self.lanes.cost_ms, default=0.0)

    # --- learning

    def learn(self, widths: tuple[int, ...], rows: int, took_s: float) -> None:
        """Learn from a measurement: `rows` rows in lanes of `widths` took `took_s` seconds."""
        self._until_look = LOOK_EVERY if self._looks else self._until_look - 1
        if self._shed.went_well():
            self._choose()
        took_ms = took_s * 1000
        self.row_ms += RATE * (took_ms / rows - self.row_ms)
        if not all(width in self._cost_ms for width in widths):
            return  # a free batch, or nothing was ever measured
        ratio = took_ms / sum(self._cost_ms[width] for width in widths)
        self._pace = ratio if self._pace is None else self._pace + RATE * (ratio - self._pace)
        # A machine that turned slow slows all widths. Only what differs from that tells a width.
        differs = min(2.0, max(0.5, ratio / self._pace))
        for width in set(widths):
            self._seen[width] += 1
            self._cost_ms[width] *= 1 + max(RATE, 1 / self._seen[width]) * (differs - 1)
            if not 1 / MOVED < self._cost_ms[width] / self._chosen[width] < MOVED:
                self._choose()

    def _choose(self) -> None:
        """Choose lanes and cap by the measurements so far."""
        widths = self.verdict.lanes.widths
        most = min(self._fits_rows, self._shed.rows)
        usable = tuple(w for w in widths if w <= most) or widths[:1]
        self._chosen = dict(self._cost_ms)
        self.lanes = LaneRule(usable, tuple(self._chosen[w] for w in usable if w in self._chosen))
        measured = bool(self.lanes.cost_ms)
        # More rows than this in one tick only make the others wait.
        self.cap_rows = min(
            self.lanes.saturated if measured else self.verdict.cap_rows, self.lanes.widest
        )

    # --- memory

    def fit(self, room: int | None) -> None:
        """Limit the lanes to those that fit into `room` bytes; None: no limit.

        Raises DeviceMemoryFull if none does.
        """
        if room is None:
            self._limit(self.verdict.lanes.widest)
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
        self._limit(min(fits, self.verdict.lanes.widest))

    def shed(self, width: int) -> bool:
        """Use narrower lanes, after a call of `width` ran out of memory. False: there are none."""
        if not self.packs or width // 2 < self.verdict.lanes.widths[0]:
            return False
        self._until_look = LOOK_EVERY
        self._shed.ran_out(width)
        self._choose()
        return True

    def _limit(self, rows: int) -> None:
        if rows != self._fits_rows:
            # Where a model left, what once ran out may fit now.
            if rows > self._fits_rows:
                self._shed.forgive()
            self._fits_rows = rows
            self._choose()


class _Shed:
    """The rows that may run at once after calls that ran out of memory.

    By the measured need they fit, so the cause was a moment's: another process, holes between
    blocks. After some calls that went well twice as many are tried, and each time that this
    fails again, twice as many calls are waited for.
    """

    def __init__(self, widest: int) -> None:
        self.rows = self._widest = widest
        self._wait = self._left = CALLS_BEFORE_MORE

    def ran_out(self, width: int) -> None:
        """Lower the limit after a call of `width` ran out of memory."""
        if self.rows < self._widest or self._wait > CALLS_BEFORE_MORE:
            self._wait = min(2 * self._wait, MOST_CALLS_BEFORE_MORE)
        self.rows, self._left = min(self.rows, width // 2), self._wait

    def went_well(self) -> bool:
        """Count a call that succeeded; True: more rows may run from here on."""
        if self.rows >= self._widest and self._wait == CALLS_BEFORE_MORE:
            return False
        self._left -= 1
        if self._left > 0:
            return False
        if self.rows >= self._widest:  # at its widest for so long: all is well again
            self._wait = CALLS_BEFORE_MORE
            return False
        self.rows, self._left = min(2 * self.rows, self._widest), self._wait
        self._wait = max(self._wait, CALLS_BEFORE_MORE + 1)  # on trial, until it went well long
        return True

    def forgive(self) -> None:
        """Lift the limit, since there is more memory than when a call ran out."""
        self.rows = self._widest


class Capacities:
    """The capacities of the models and sizes that were requested last."""

    def __init__(self) -> None:
        self._known: OrderedDict[Size, OrderedDict[Verdict, Capacity]] = OrderedDict()

    def of(self, request: ImageRequest, verdict: Verdict) -> Capacity:
        """Return the capacity of a request's model and size."""
        row_ms, size = self.row_ms(request), _size(request)
        there = self._known.setdefault(size, OrderedDict())
        if verdict not in there:  # a ControlNet or a LoRA at the same size has a verdict of its own
            there[verdict] = Capacity(verdict, row_ms)
        there.move_to_end(verdict)
        self._known.move_to_end(size)
        # Images under way keep theirs; a new one starts from its verdict again.
        while len(there) > VERDICTS_KEPT:
            there.popitem(last=False)
        while len(self._known) > SIZES_KEPT:
            self._known.popitem(last=False)
        return there[verdict]

    def row_ms(self, request: ImageRequest) -> float:
        """Return milliseconds of a row of such a request, estimated if never measured."""
        there = self._known.get(_size(request))
        if not there:
            return UNMEASURED_ROW_MS * request.width * request.height / 1e6
        return max(capacity.row_ms for capacity in there.values())

    def forget(self, model_id: str) -> None:
        """Drop a model's capacities; loaded again, the model starts from its verdicts."""
        for size in [size for size in self._known if size[0] == model_id]:
            del self._known[size]


def _size(request: ImageRequest) -> Size:
    return request.model, request.width, request.height
