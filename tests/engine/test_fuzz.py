"""Random schedules: joins, leaves, cancels, faults and full memory; no bit may differ.

10 schedules in the gate, FUZZ_SCHEDULES of them (200) with `pytest -m slow`. Derandomised: a
failure repeats, and Hypothesis shrinks it to the few images that matter.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.contract.samplers import samplers_for
from tests.engine.faults import FAULTS, ROW, Cramped
from tests.engine.runs import alone, endings, finish, pixels, plain
from tests.engine.tiny import SIDE, a_request, an_entry, tiny_pipeline
from worker.engine.batcher import Engine
from worker.engine.gates import Kind
from worker.engine.model import Model
from worker.messages import Canceled, Event, Failed, Finished, ImageRequest

pytestmark = [
    pytest.mark.timeout(3000),
    pytest.mark.filterwarnings("ignore:Should have t[ab]:UserWarning"),  # torchsde's rounding
    pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning"),  # diffusers' SASolver
]
SIZES = ((SIDE, SIDE), (24, SIDE), (SIDE, 32))


@dataclass(frozen=True)
class Arrival:
    """One image of a schedule: when it comes, what it is, when it is canceled (or never)."""

    tick: int
    sampler: str
    steps: int
    guidance: float
    size: tuple[int, int]
    seed: int
    exact: bool
    fault: str
    cancel_tick: int | None


arrivals = st.builds(
    Arrival,
    tick=st.integers(0, 12),
    sampler=st.sampled_from(samplers_for("diffusion")),
    steps=st.integers(2, 6),
    guidance=st.sampled_from((1.0, 3.0, 7.5)),
    size=st.sampled_from(SIZES),
    seed=st.integers(0, 2),
    exact=st.sampled_from((True, True, True, False)),
    fault=st.sampled_from(("", "", "", "", "!raise@1", "!nan@1", "!oom@0")),
    cancel_tick=st.one_of(st.none(), st.none(), st.integers(1, 25)),
)
rooms = st.sampled_from((None, None, 4, 2))  # rows of the usual size that fit into memory
schedules = st.tuples(
    st.lists(arrivals, min_size=2, max_size=9), st.sampled_from((2, 4, 32)), rooms
)


@pytest.fixture(scope="module")
def faulty() -> Iterator[Model]:
    made = Model(an_entry(), tiny_pipeline(), FAULTS)
    yield made
    made.close()


known: dict[ImageRequest, bytes] = {}


def expected(model: Model, request: ImageRequest) -> bytes:
    """What the plain pipeline makes; unguided, what the engine makes of it alone."""
    request = replace(request, id="expected")
    if request not in known:
        known[request] = (plain if request.guidance_scale > 1 else alone)(model, request)
    return known[request]


def request_of(number: int, arrival: Arrival) -> ImageRequest:
    return a_request(
        id=f"n{number}",
        prompt=f"a green boat {arrival.fault}",
        sampler=arrival.sampler,
        steps=arrival.steps,
        guidance_scale=arrival.guidance,
        width=arrival.size[0],
        height=arrival.size[1],
        seed=arrival.seed,
        exact=arrival.exact,
        key=f"key-{number % 3}",
        priority=number % 2,
    )


def play(model: Model, schedule: list[Arrival], max_live: int) -> list[Event]:
    """Submit and cancel as the schedule says, tick by tick, to the end."""
    engine = Engine([model], max_live=max_live)
    events: list[Event] = []
    last = max(max(a.tick, a.cancel_tick or 0) for a in schedule)
    for tick in range(last + 1):
        for number, arrival in enumerate(schedule):
            if arrival.tick == tick:
                engine.submit(request_of(number, arrival))
            if arrival.cancel_tick == tick and arrival.tick <= tick:
                engine.cancel(f"n{number}")
        events += engine.tick()
    return events + finish(engine)


def check(model: Model, schedule: list[Arrival], max_live: int, room: int | None) -> None:
    for size in SIZES:
        model.promises.at(*size)  # tested while there is room
    # The largest of the sizes has twice the values of the usual one.
    with Cramped(model, Kind.ROWS, values=2 * ROW * (room or 1000)):
        ends = endings(play(model, schedule, max_live))

    assert set(ends) == {f"n{number}" for number in range(len(schedule))}
    for number, arrival in enumerate(schedule):
        request, end = request_of(number, arrival), ends[f"n{number}"]
        match end:
            case Finished():
                assert not arrival.fault
                assert not request.exact or pixels(end) == expected(model, request), arrival
            case Failed():
                assert arrival.fault, end
            case Canceled():
                assert arrival.cancel_tick is not None


@settings(
    max_examples=10,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(schedule=schedules)
def test_no_schedule_changes_a_bit(faulty: Model, schedule: tuple[list[Arrival], int, int | None]):
    check(faulty, *schedule)


@pytest.mark.slow
@settings(
    max_examples=int(os.environ.get("FUZZ_SCHEDULES", "200")),
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(schedule=schedules)
def test_no_schedule_of_very_many_changes_a_bit(
    faulty: Model, schedule: tuple[list[Arrival], int, int | None]
):
    check(faulty, *schedule)
