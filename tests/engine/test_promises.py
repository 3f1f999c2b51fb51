"""What the self-test finds, promises and remembers."""

from __future__ import annotations

import pytest
import torch

from tests.engine.test_packing import RowWise, a_call
from tests.engine.tiny import SIDE
from worker.engine.exactness import Promises, weakest
from worker.engine.model import Model
from worker.engine.selftest import self_test
from worker.engine.signatures import Packed


class Mixing(RowWise):
    """Every row depends on the others, as with a batch norm: it must never meet company."""

    def forward(self, sample, timestep, extra=None, shared=None):
        return (sample - sample.mean(0, keepdim=True),)


class Rounding(RowWise):
    """Another rounding from eight rows on, as a kernel that is chosen by size."""

    def forward(self, sample, timestep, extra=None, shared=None):
        return (sample * (2 if len(sample) < 8 else 2.000001),)


class Placing(RowWise):
    """The place of a row shows in its last bits."""

    def forward(self, sample, timestep, extra=None, shared=None):
        return (sample * (1 + torch.arange(len(sample))[:, None] * 1e-6),)


def test_a_model_whose_rows_keep_apart_is_exact_in_every_width():
    verdict = self_test(a_call(RowWise(), 2, 7.0))

    assert verdict.reproducibility == "exact"
    assert verdict.lanes.widths == (2, 4, 8, 16)


def test_a_model_that_mixes_its_rows_is_never_batched():
    assert self_test(a_call(Mixing(), 2, 7.0)).reproducibility == "unpacked"


def test_widths_with_other_bits_are_left_out():
    verdict = self_test(a_call(Rounding(), 2, 7.0))

    assert verdict.reproducibility == "exact"
    assert verdict.lanes.widths == (2, 4)


def test_a_model_that_knows_a_row_by_its_place_promises_tolerance_only():
    assert self_test(a_call(Placing(), 2, 7.0)).reproducibility == "tolerance"


def test_a_pinned_width_is_the_only_one():
    assert self_test(a_call(RowWise(), 2, 7.0), pinned_width=8).lanes.widths == (8,)


def test_a_verdict_is_found_once_and_kept_on_disk_for_its_fingerprint(tmp_path):
    probed: list[tuple[int, int]] = []

    def probe(width: int, height: int) -> list[Packed]:
        probed.append((width, height))
        return [a_call(RowWise(), 2, 7.0)]

    found = Promises("one", probe, state_dir=tmp_path).at(64, 64)
    again = Promises("one", probe, state_dir=tmp_path).at(64, 64)
    Promises("another", probe, state_dir=tmp_path).at(64, 64)

    assert again == found
    assert again.lanes.cost_ms == found.lanes.cost_ms
    assert probed == [(64, 64)] * 2


@pytest.mark.parametrize("torn", ["", "{", '{"64x64": {"widths": 3}}'])
def test_a_torn_file_costs_a_second_test_and_nothing_else(tmp_path, torn: str):
    probe = lambda width, height: [a_call(RowWise(), 2, 7.0)]  # noqa: E731
    Promises("one", probe, state_dir=tmp_path).at(64, 64)
    next(tmp_path.iterdir()).write_text(torn)

    assert Promises("one", probe, state_dir=tmp_path).at(64, 64).reproducibility == "exact"


def test_of_several_networks_the_weakest_decides_and_widths_are_those_that_all_allow():
    steady, rounding = a_call(RowWise(), 2, 7.0), a_call(Rounding(), 2, 7.0)
    wide = self_test(steady)

    both = weakest([self_test(rounding), wide])

    assert both.reproducibility == "exact"
    assert set(both.lanes.widths) == set(self_test(rounding).lanes.widths) < set(wide.lanes.widths)
    assert both.cap_rows <= both.lanes.widest
    assert weakest([self_test(a_call(Mixing(), 2, 7.0)), wide]).reproducibility == "unpacked"


def test_the_tiny_model_on_this_machine_is_exact_in_more_than_one_width(model: Model):
    verdict = model.promises.at(SIDE, SIDE)

    assert verdict.reproducibility == "exact"
    assert {2, 4} <= set(verdict.lanes.widths)


def test_the_fingerprint_names_what_the_bits_depend_on(model: Model):
    line = model.fingerprint

    for part in (
        "model=",
        "dtype=float32",
        "device=cpu-",
        "threads=1",
        "torch=2.13.0",
        "transformers=",
        "kernels=usual",
        "with=numpy-",
    ):
        assert part in line
