"""What goes wrong in one image ends that image; the neighbours' bits do not know of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.engine.faults import FAULTS
from tests.engine.runs import endings, finish, pixels, plain, run
from tests.engine.tiny import SIDE, a_request, an_entry, tiny_pipeline
from worker.engine.batcher import Engine
from worker.engine.gates import Kind
from worker.engine.model import Model
from worker.messages import Canceled, Failed


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
