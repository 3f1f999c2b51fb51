"""Rows lie in memory the same whatever company they go in, and so does what comes back."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.engine.test_packing import RowWise, packed
from worker.engine.collate import run_together
from worker.engine.gates import Gate, Kind, ModelCall
from worker.engine.memory_layout import ALIGNED, settled
from worker.engine.profiles import DEFAULT
from worker.engine.signatures import Packed, take_apart

PLAIN = torch.randn(2, 6, 3, 5, generator=torch.Generator().manual_seed(0))
AT_ODDS = torch.empty(2 * 90 + 1)[1:].view(2, 6, 3, 5).copy_(PLAIN)  # four bytes from a good start

LAID: dict[str, torch.Tensor] = {
    "plain": PLAIN,
    "channels last": PLAIN.contiguous(memory_format=torch.channels_last),
    "turned": PLAIN.transpose(1, 3).contiguous().transpose(1, 3),
    "gaps": torch.cat([PLAIN, PLAIN], 3)[..., :5],
    "repeated": PLAIN[:1].expand(2, -1, -1, -1),
    "unaligned": AT_ODDS,
    "negated": torch.complex(PLAIN, PLAIN).conj().imag,
}


class Seeing:
    """Notes how what it is called with lies, and returns it in another order."""

    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []
        self.gate = Gate(self, "forward", Kind.ROWS)

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor) -> tuple[torch.Tensor]:
        aligned = sample.data_ptr() % ALIGNED == 0
        self.seen.append(
            (sample.stride(), aligned, sample.is_neg(), timestep.dtype, timestep.dim())
        )
        return (sample.transpose(1, 2),)


def a_call(net: Seeing, sample: torch.Tensor, time: object = 3) -> Packed:
    return take_apart(ModelCall(net.gate, {"sample": sample, "timestep": time}), DEFAULT, {})


@pytest.mark.parametrize("laid", LAID)
def test_a_network_sees_rows_lie_alike_alone_padded_and_beside_others(laid: str):
    net, sample = Seeing(), LAID[laid]
    call, neighbour = (
        a_call(net, sample),
        a_call(net, sample.clone() if laid == "plain" else sample),
    )

    results = [
        run_together([call], [2])[0],
        run_together([call], [8])[0],
        run_together([neighbour, call], [4])[1],
        run_together([neighbour, call, neighbour], [2, 2, 2])[1],
        run_together([neighbour, call, neighbour], [4, 4])[1],
    ]

    assert len(set(net.seen)) == 1
    assert all(torch.equal(out[0], sample.transpose(1, 2)) for out in results)
    ways = {(out[0].stride(), out[0].data_ptr() % ALIGNED) for out in results}
    assert len(ways) == 1


def test_an_order_without_gaps_is_kept_and_not_even_copied():
    for name in ("plain", "channels last", "turned"):
        assert settled(LAID[name]) is LAID[name]
        assert settled(LAID[name][1:2].clone()).stride()[1:] == LAID[name].stride()[1:]


def test_rows_of_another_order_do_not_meet():
    net = Seeing()
    signatures = {name: a_call(net, sample).signature for name, sample in LAID.items()}

    plainly = {name for name, one in signatures.items() if one == signatures["plain"]}
    assert plainly == {"plain", "gaps", "repeated", "unaligned", "negated"}
    assert len({signatures[name] for name in ("plain", "channels last", "turned")}) == 3


@pytest.mark.parametrize(
    "time", [3, 3.0, torch.tensor(3), torch.tensor(3.0, dtype=torch.float64), torch.tensor([3, 3])]
)
def test_a_time_has_one_form_whoever_counts_it(time: object):
    net = Seeing()

    run_together([a_call(net, PLAIN, time)], [2])
    run_together([a_call(net, PLAIN, time), a_call(net, PLAIN, torch.tensor(2.5))], [4])

    assert {seen[3:] for seen in net.seen} == {(torch.float32, 1)}


def test_a_shared_table_that_was_written_to_is_read_again():
    net, table = RowWise(), torch.zeros(7, 3)
    arguments = {"sample": torch.ones(2, 3), "timestep": 1.0, "shared": table}
    memo: dict[int, tuple[torch.Tensor, int, bytes]] = {}
    first = take_apart(ModelCall(net.gate, arguments), DEFAULT, memo)

    table.add_(1)

    again = take_apart(ModelCall(net.gate, arguments), DEFAULT, memo, first)
    assert again.signature != first.signature


def test_rows_made_in_inference_mode_are_joined_too():
    net = RowWise()
    with torch.inference_mode():
        calls = [packed(net.gate, sample=torch.ones(2, 3), timestep=t) for t in (1.0, 2.0)]

    (first,), (second,) = ([out[0]] for out in run_together(calls, [4]))

    assert (first[0, 0], second[0, 0]) == (3.0, 4.0)
