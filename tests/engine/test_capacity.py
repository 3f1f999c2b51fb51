"""What fits and what pays at one (model, size): measured first, learned since."""

from __future__ import annotations

import pytest
import torch

from tests.engine.test_packing import RowWise, a_call
from worker.engine.capacity import CALLS_BEFORE_MORE, MOST_CALLS_BEFORE_MORE, Capacity
from worker.engine.errors import DeviceMemoryFull
from worker.engine.lane_widths import LaneRule
from worker.engine.memory import Need, measured, need_of, ran_out
from worker.engine.selftest import Verdict, self_test

COSTS = {2: 4.0, 4: 6.0, 8: 10.0, 16: 18.0}  # a row: 2, 1.5, 1.25, 1.125 ms
MIB = 1 << 20


def a_capacity(**more: object) -> Capacity:
    rule = LaneRule(tuple(COSTS), tuple(COSTS.values()))
    made = {"reproducibility": "exact", "lanes": rule, "cap_rows": 8, "rows_per_s": 1.0}
    return Capacity(Verdict(**{**made, **more}), row_ms=1.0)


def learn(capacity: Capacity, costs: dict[int, float], times: int = 40) -> None:
    for _ in range(times):
        for width, ms in costs.items():
            capacity.learn((width,), width, ms / 1000)


def test_the_cap_is_the_narrowest_width_that_gets_nearly_the_most():
    saturated = LaneRule((2, 4, 8), (4.0, 7.9, 15.8))

    assert LaneRule(tuple(COSTS), tuple(COSTS.values())).saturated == 8
    assert saturated.saturated == 2
    assert a_capacity(lanes=saturated).cap_rows == 2


def test_a_width_that_turns_out_slow_is_chosen_no_more():
    capacity = a_capacity()
    assert capacity.widths_for(16, exact=True) == (16,)

    learn(capacity, COSTS | {16: 40.0})

    assert capacity.widths_for(16, exact=True) == (8, 8)


def test_where_wide_calls_turn_out_to_gain_nothing_fewer_rows_run_at_once():
    capacity = a_capacity()

    learn(capacity, {2: 4.0, 4: 8.0, 8: 16.0, 16: 32.0}, times=80)

    assert capacity.cap_rows < 8


def test_a_machine_that_is_slow_everywhere_changes_times_and_no_lanes():
    capacity = a_capacity()
    before = capacity.lanes

    learn(capacity, {16: 180.0, 8: 100.0})

    assert (capacity.lanes, capacity.cap_rows) == (before, 8)
    assert capacity.slowest_ms == pytest.approx(180, rel=0.1)
    assert capacity.row_ms == pytest.approx(12, rel=0.1)


def under_load(capacity: Capacity, costs: dict[int, float], calls: int) -> list[tuple[int, ...]]:
    """The lanes that it chooses while 32 rows wait all the time, where calls cost so many ms."""
    chosen: list[tuple[int, ...]] = []
    for _ in range(calls):
        rows = min(32, capacity.rows_now)
        chosen.append(capacity.widths_for(rows, exact=True))
        capacity.learn(chosen[-1], rows, sum(costs[width] for width in chosen[-1]) / 1000)
    return chosen


def test_a_cap_that_was_measured_wrong_is_mended():
    # As measured once, on a machine that was busy just then, and as it was: 16 rows gain most.
    believed = {2: 25.8, 4: 32.5, 8: 59.6, 16: 118.0}
    real = {2: 23.2, 4: 36.1, 8: 53.9, 16: 87.8}
    capacity = a_capacity(lanes=LaneRule(tuple(believed), tuple(believed.values())))
    assert capacity.cap_rows == 4

    chosen = under_load(capacity, real, calls=100)  # four pictures

    assert capacity.cap_rows == 16
    assert chosen[-1] == (16,)


def test_lanes_that_were_measured_wrong_are_mended():
    capacity = a_capacity(lanes=LaneRule((2, 4, 8), (4.0, 6.0, 13.0)))
    assert capacity.widths_for(8, exact=True) == (4, 4)

    under_load(capacity, COSTS, calls=100)

    assert capacity.widths_for(8, exact=True) == (8,)


def test_where_the_cap_is_right_looking_again_changes_nothing():
    full = {2: 4.0, 4: 7.9, 8: 15.8, 16: 31.6}
    capacity = a_capacity(lanes=LaneRule(tuple(full), tuple(full.values())))

    chosen = under_load(capacity, full, calls=90)

    assert capacity.cap_rows == 2
    assert chosen.count((4,)) == 10, "one call in nine, and never wider than the next"
    assert set(chosen) == {(2,), (4,)}


def test_a_look_keeps_to_the_memory_that_is_left():
    capacity = a_capacity(need=Need(base=0, row=10 * MIB))
    capacity.fit(40 * MIB)

    assert max(map(max, under_load(capacity, COSTS, calls=50))) == 4


def test_after_a_call_that_ran_out_nothing_wider_is_tried_at_once():
    capacity = a_capacity()
    while capacity.rows_now == capacity.cap_rows:
        under_load(capacity, COSTS, calls=1)

    assert capacity.shed(capacity.rows_now)
    assert capacity.rows_now == capacity.cap_rows


def test_lanes_keep_to_the_memory_that_is_left():
    capacity = a_capacity(need=Need(base=10 * MIB, row=10 * MIB))

    capacity.fit(10 * MIB + 5 * 10 * MIB)

    assert capacity.widths_for(8, exact=True) == (4, 4)
    assert capacity.cap_rows == 4


def test_one_decoding_has_its_place_in_memory_too():
    capacity = a_capacity(need=Need(base=0, row=10 * MIB))
    capacity.decode_bytes = 20 * MIB

    capacity.fit(100 * MIB)

    assert capacity.lanes.widest == 8
    with pytest.raises(DeviceMemoryFull, match=r"takes 40 MiB .* 39 MiB are left.* smaller size"):
        capacity.fit(39 * MIB)


def test_a_call_that_ran_out_halves_what_is_tried_next_down_to_the_narrowest():
    capacity = a_capacity()

    assert capacity.shed(16)
    assert capacity.widths_for(16, exact=True) == (8, 8)
    assert capacity.shed(4)
    assert capacity.widths_for(16, exact=True) == (2,) * 8
    assert not capacity.shed(2)


def test_a_cap_that_another_model_lowered_rises_when_that_leaves():
    capacity = a_capacity(need=Need(base=0, row=10 * MIB))
    lanes, cap = capacity.lanes, capacity.cap_rows
    for room in (40 * MIB, 20 * MIB, 80 * MIB):
        capacity.fit(room)
        assert capacity.lanes.widest == room // (10 * MIB)

    capacity.fit(1 << 40)
    assert (capacity.lanes, capacity.cap_rows) == (lanes, cap)

    capacity.fit(20 * MIB)
    capacity.fit(None)
    assert (capacity.lanes, capacity.cap_rows) == (lanes, cap)


def good_calls(capacity: Capacity, until: int) -> int:
    """Return the number of good calls before so many rows may run in one."""
    for done in range(20_000):
        if capacity.lanes.widest >= until:
            return done
        capacity.learn((2,), 2, COSTS[2] / 1000)
    raise AssertionError(f"{capacity.lanes.widest} rows for good")


def test_after_a_call_that_ran_out_the_width_comes_back_step_by_step():
    capacity = a_capacity()
    assert capacity.shed(8)
    assert capacity.lanes.widest == 4

    steps = [good_calls(capacity, until=8), good_calls(capacity, until=16)]

    assert all(CALLS_BEFORE_MORE <= calls <= 500 for calls in steps)
    assert capacity.cap_rows == a_capacity().cap_rows


def test_a_width_that_runs_out_again_and_again_is_tried_ever_more_seldom():
    capacity, waits = a_capacity(), list[int]()
    for _ in range(12):
        assert capacity.shed(16)
        waits.append(good_calls(capacity, until=16))

    assert waits == sorted(waits)
    assert waits[-1] == MOST_CALLS_BEFORE_MORE
    for _ in range(MOST_CALLS_BEFORE_MORE + 1):
        capacity.learn((16,), 16, COSTS[16] / 1000)
    assert capacity.shed(16)
    assert good_calls(capacity, until=16) == CALLS_BEFORE_MORE, "it went well for long since"


def test_a_width_that_ran_out_comes_back_at_once_where_memory_grew():
    capacity = a_capacity(need=Need(base=0, row=10 * MIB))
    capacity.fit(90 * MIB)
    capacity.shed(8)
    capacity.fit(90 * MIB)
    assert capacity.lanes.widest == 4

    capacity.fit(1 << 40)

    assert capacity.lanes.widest == 16


def test_what_a_row_takes_is_measured_by_the_allocator():
    device = torch.device("cpu")

    kept, held = measured(lambda: [torch.ones(MIB, dtype=torch.uint8) for _ in range(3)], device)
    _, passing = measured(lambda: [torch.ones(MIB // 4).sum() for _ in "123"], device)

    assert len(kept) == 3
    assert 3 * MIB <= held < 3.2 * MIB
    assert MIB <= passing < 1.2 * MIB
    assert need_of({2: 30, 16: 100}) == Need(base=20, row=5)


def test_the_self_test_tells_what_rows_take():
    verdict = self_test(a_call(RowWise(), 2, 7.0, extra={"ballast": torch.ones(2, MIB // 4)}))

    assert MIB <= verdict.need.row < 3 * MIB  # a row of the ballast, joined


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()],
    ids=["torch", "python"],
)
def test_a_full_device_is_recognised(error: Exception):
    assert ran_out(error)
    assert not ran_out(RuntimeError("shapes cannot be multiplied"))


def test_the_cpu_allocators_own_words_are_recognised():
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 50)

    assert ran_out(raised.value)
