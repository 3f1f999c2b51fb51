"""What goes wrong in one image ends that image; the neighbours' bits do not know of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.engine.faults import FAULTS, ROW, Cramped
from tests.engine.runs import endings, finish, pixels, plain, run
from tests.engine.tiny import SIDE, a_request, an_entry, tiny_pipeline
from worker.engine.batcher import Engine
from worker.engine.gates import Kind
from worker.engine.model import Model
from worker.messages import Canceled, Failed, Finished


@pytest.fixture(scope="module")
def faulty() -> Iterator[Model]:
    made = Model(an_entry(lane_width=2), tiny_pipeline(), FAULTS)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("fault", "code", "retryable"),
    [
        ("!raise@1", "pipeline_error", False),
        ("!nan@0", "nan_output", False),
        ("!nan@3", "nan_output", False),
        ("!oom@2", "out_of_memory", True),
    ],
)
def test_a_fault_in_one_image_changes_no_bit_of_its_neighbours(
    faulty: Model, fault: str, code: str, retryable: bool
):
    neighbours = [a_request(seed=i, sampler=s) for i, s in enumerate(["ddim", "euler_a"])]
    broken = a_request(prompt=f"a boat {fault}", steps=4)

    ends = run(faulty, [neighbours[0], broken, neighbours[1]])

    assert isinstance(ends[broken.id], Failed)
    assert (ends[broken.id].code, ends[broken.id].retryable) == (code, retryable)
    assert [pixels(ends[n.id]) for n in neighbours] == [plain(faulty, n) for n in neighbours]


def test_an_image_that_turned_to_nan_is_stopped_early(faulty: Model):
    request = a_request(prompt="!nan@2", steps=40)

    ends = run(faulty, [request])

    assert isinstance(ends[request.id], Failed)
    assert "after 9 model calls" in ends[request.id].message


def test_rows_that_break_the_model_call_are_found_and_fail_alone(faulty: Model):
    rows_gate = next(g for g in faulty.gates if g.kind is Kind.ROWS)
    kept, poison = a_request(seed=1), a_request(seed=2, sampler="ddim", steps=7)
    real = rows_gate.run

    def breaks_on_the_seventh(**arguments):
        if (arguments["timestep"] == 853).any():  # only a DDIM of 7 steps ever is there
            raise RuntimeError("a kernel failed")
        return real(**arguments)

    rows_gate.run = breaks_on_the_seventh
    ends = run(faulty, [kept, poison])
    rows_gate.run = real

    assert isinstance(ends[poison.id], Failed)
    assert "a kernel failed" in ends[poison.id].message
    assert pixels(ends[kept.id]) == plain(faulty, kept)


@pytest.mark.parametrize("exact", [True, False], ids=["lanes", "free"])
def test_a_batch_that_does_not_fit_is_halved_from_then_on_and_no_bit_changes(
    model: Model, exact: bool
):
    requests = [a_request(seed=i, steps=4 + i % 2, exact=exact) for i in range(8)]
    expected = [plain(model, request) for request in requests]
    promised = model.promises.at(SIDE, SIDE)
    full = replace(promised, cap_rows=16, lanes=replace(promised.lanes, cost_ms=()))
    model.promises._verdicts[f"{SIDE}x{SIDE}"] = full

    with Cramped(model, Kind.ROWS, values=2 * ROW) as device:
        ends = run(model, requests)
    model.promises._verdicts[f"{SIDE}x{SIDE}"] = promised

    refused = [width for width in device.widths if width > 2]
    assert refused == [width for width in (16, 8, 4) if width in full.lanes.widths]
    if exact:
        assert [pixels(ends[r.id]) for r in requests] == expected
    assert all(isinstance(end, Finished) for end in ends.values())


def test_an_image_that_does_not_fit_even_alone_fails_alone_and_says_what_to_do(model: Model):
    large, small = a_request(width=32, height=32), a_request(seed=3)
    expected = plain(model, small)
    model.promises.at(32, 32)  # tested while there was room

    with Cramped(model, Kind.ROWS, values=4 * ROW):
        ends = run(model, [large, small])

    assert isinstance(ends[large.id], Failed)
    assert (ends[large.id].code, ends[large.id].retryable) == ("out_of_memory", True)
    assert "ask for a smaller size" in ends[large.id].message
    assert pixels(ends[small.id]) == expected


@pytest.mark.parametrize("kind", [Kind.ROWS, Kind.DECODE, Kind.ENCODE])
def test_a_device_that_was_full_for_a_moment_costs_time_only(model: Model, kind: Kind):
    request = a_request(seed=9, prompt=f"a red boat, {kind}")
    expected = plain(model, request)

    with Cramped(model, kind, values=0, times=1) as device:
        ends = run(model, [request])

    assert pixels(ends[request.id]) == expected
    assert device.times == 0


def test_a_decoding_that_does_not_fit_fails_alone(model: Model):
    large, small = a_request(width=32, height=32), a_request(seed=3)
    expected = plain(model, small)

    with Cramped(model, Kind.DECODE, values=ROW):
        ends = run(model, [large, small])

    assert isinstance(ends[large.id], Failed)
    assert ends[large.id].code == "out_of_memory"
    assert pixels(ends[small.id]) == expected


def test_a_size_whose_test_breaks_fails_its_image_and_nothing_else(model: Model):
    odd, usual = a_request(width=40, height=8), a_request(seed=3)
    expected = plain(model, usual)

    with Cramped(model, Kind.ROWS, values=0, times=1):
        ends = run(model, [odd])
    again = run(model, [replace(odd, id="again"), usual])

    assert isinstance(ends[odd.id], Failed)
    assert ends[odd.id].code == "out_of_memory"
    assert isinstance(again["again"], Finished)
    assert pixels(again[usual.id]) == expected


def test_an_engine_without_room_refuses_in_words_before_it_starts(model: Model):
    engine, request = Engine([model], room=lambda: 1000), a_request()
    engine.submit(request)

    (end,) = engine.tick()

    assert isinstance(end, Failed)
    assert end.code == "out_of_memory"
    assert "raise the engine's memory budget" in end.message


def test_the_watchdog_is_told_of_the_slowest_size_before_it_runs(model: Model):
    engine = Engine([model])
    assert engine.step_ms is None

    engine.submit(a_request())
    engine.tick()

    assert engine.step_ms is not None
    assert engine.step_ms >= max(model.promises.at(SIDE, SIDE).lanes.cost_ms)


def test_a_flat_picture_is_no_picture(faulty: Model):
    decode = next(g for g in faulty.gates if g.kind is Kind.DECODE)
    real = decode.run
    decode.run = lambda *args, **kwargs: (real(*args, **kwargs)[0] * 0,)
    request = a_request(steps=2)

    ends = run(faulty, [request])
    decode.run = real

    assert isinstance(ends[request.id], Failed)
    assert ends[request.id].code == "degenerate_output"


def test_a_dropped_call_runs_its_finally_blocks(faulty: Model):
    left: list[str] = []
    engine, request = Engine([faulty]), a_request(steps=9)
    faulty.promises.at(SIDE, SIDE)  # or the probe would pass there, too
    faulty.pipeline.progress_bar = lambda total: Bar(left)
    engine.submit(request)
    ticks = [engine.tick() for _ in range(6)]

    engine.close()
    del faulty.pipeline.progress_bar

    assert left == ["left"]
    assert isinstance(endings(sum(ticks, finish(engine)))[request.id], Canceled)


class Bar:
    """Stands where the pipeline's `with self.progress_bar(...)` is: around all its steps."""

    def __init__(self, left: list[str]) -> None:
        self.left = left

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.left.append("left")

    def update(self):
        pass
