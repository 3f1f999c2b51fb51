"""Signatures and lanes, on a network small enough to see every row."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.engine.collate import batch_sizes, run_together
from worker.engine.gates import Gate, Kind, ModelCall
from worker.engine.lane_widths import LaneRule
from worker.engine.profiles import DEFAULT
from worker.engine.profiles.base import Profile
from worker.engine.signatures import Packed, take_apart


class RowWise:
    """Doubles each row and adds its time; notes the widths it was called with."""

    def __init__(self) -> None:
        self.widths: list[int] = []
        self.gate = Gate(self, "forward", Kind.ROWS)

    def forward(self, sample, timestep, extra=None, shared=None):
        self.widths.append(len(sample))
        time = torch.as_tensor(timestep).reshape(-1).expand(len(sample))
        out = sample * 2 + time.reshape(-1, *[1] * (sample.dim() - 1))
        return (out, None)


class ListWise:
    """Takes and gives lists of rows, unlike in size, as Z-Image does."""

    def __init__(self) -> None:
        self.gate = Gate(self, "forward", Kind.ROWS)

    def forward(self, x, t):
        return ([row * 2 + time for row, time in zip(x, t, strict=True)],)


def packed(gate: Gate, **arguments) -> Packed:
    return take_apart(ModelCall(gate, arguments), DEFAULT, {})


def a_call(net: RowWise, rows: int, time: float, **more) -> Packed:
    sample = torch.randn(rows, 3, generator=torch.Generator().manual_seed(int(time)))
    return packed(net.gate, sample=sample, timestep=torch.tensor(time), **more)


@settings(max_examples=60, derandomize=True, deadline=None)
@given(
    rows=st.lists(st.integers(1, 3), min_size=1, max_size=9),
    widths=st.sampled_from([(2,), (2, 4), (1, 2, 4, 8), (8,)]),
)
def test_every_call_gets_its_own_rows_back_from_any_lanes(rows: list[int], widths):
    net = RowWise()
    calls = [a_call(net, n, float(i)) for i, n in enumerate(rows)]
    lanes = LaneRule(widths).cut(sum(rows))

    results = run_together(calls, lanes)

    for i, (call, (out, nothing)) in enumerate(zip(calls, results, strict=True)):
        assert torch.equal(out, call.leaves[0] * 2 + i)
        assert nothing is None
    assert set(net.widths) <= set(widths)
    assert min(batch_sizes(calls, lanes)) >= 1


def test_times_of_unlike_types_share_a_call():
    net = RowWise()
    whole = packed(net.gate, sample=torch.ones(2, 3), timestep=torch.tensor(981))
    broken = packed(net.gate, sample=torch.ones(2, 3), timestep=torch.tensor(500.5))

    first, second = run_together([whole, broken], [4])

    assert whole.signature == broken.signature
    assert first[0][0, 0] == 2 + 981
    assert second[0][0, 0] == 2 + 500.5


@pytest.mark.parametrize(
    "other",
    [
        {"sample": torch.ones(2, 4)},
        {"sample": torch.ones(2, 3, dtype=torch.float64)},
        {"sample": torch.ones(2, 3).to_sparse()},
        {"sample": torch.nn.Parameter(torch.ones(2, 3))},
        {"timestep": torch.tensor([1.0, 1.0], dtype=torch.bfloat16)},
        {"shared": torch.zeros(7, 3)},
        {"shared": torch.ones(3, 7).T},
        {"extra": {"scale": 0.5}},
        {"extra": {"scale": np.arange(2000.0) != 1000}},
    ],
    ids=[
        "shape",
        "dtype",
        "sparse",
        "subclass",
        "half a time",
        "shared content",
        "shared order",
        "literal",
        "array",
    ],
)
def test_calls_that_differ_in_more_than_rows_do_not_meet(other):
    net = RowWise()
    base = {
        "sample": torch.ones(2, 3), "timestep": 1.0, "shared": torch.ones(7, 3),
        "extra": {"scale": np.ones(2000, bool) if "array" in str(other) else 1.0},
    }  # fmt: skip

    assert packed(net.gate, **base).signature == packed(net.gate, **base).signature
    assert packed(net.gate, **base).signature != packed(net.gate, **{**base, **other}).signature


def test_lists_of_rows_share_a_call_where_the_model_pads_them_alike():
    net = ListWise()
    padding = replace(DEFAULT, padded_to=32)

    def of_lengths(*lengths: int, profile: Profile = padding) -> Packed:
        rows, times = [torch.ones(n, 4) for n in lengths], torch.arange(1.0, 1 + len(lengths))
        return take_apart(ModelCall(net.gate, {"x": rows, "t": times}), profile, {})

    short, long, too_long = of_lengths(2), of_lengths(32, 5), of_lengths(33)
    (first,), (second,) = run_together([short, long], [4])

    assert short.signature == long.signature != too_long.signature
    # A network of which nothing is known pads to the longest of a call: nobody may change that.
    assert of_lengths(2, profile=DEFAULT).signature != of_lengths(3, profile=DEFAULT).signature
    assert [(len(row), row[0, 0].item()) for row in first] == [(2, 3.0)]
    assert [(len(row), row[0, 0].item()) for row in second] == [(32, 3.0), (5, 4.0)]


def test_a_list_of_tensors_beside_a_tensor_is_a_nesting_and_not_rows():
    net = RowWise()
    residuals = [torch.ones(2, 5), torch.ones(2, 7)]

    call = packed(net.gate, sample=torch.ones(2, 3), timestep=1, extra=residuals)

    assert [leaf.shape for leaf in call.leaves if isinstance(leaf, torch.Tensor)] == [
        (2, 3), (2, 5), (2, 7),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "expected"), [(1, (2,)), (2, (2,)), (6, (4, 2)), (13, (8, 4, 2)), (15, (16,))]
)
def test_rows_are_cut_into_the_cheapest_lanes(rows: int, expected: tuple[int, ...]):
    rule = LaneRule((2, 4, 8, 16), (38.0, 58.0, 93.0, 140.0))

    assert rule.cut(rows) == expected or sum(
        rule.cost_ms[rule.widths.index(w)] for w in rule.cut(rows)
    ) <= sum(rule.cost_ms[rule.widths.index(w)] for w in expected)
