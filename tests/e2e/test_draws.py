"""The same request gives the same pixels alone and in any company, through the whole service."""

from __future__ import annotations

import time
from random import Random

import pytest

from tests.draws import Palette, play, told
from tests.e2e.running import Up

SAMPLERS = ("ddim", "euler_a", "dpmpp_2m_sde", "heun", "unipc", "lcm", "pndm", "sa_solver")


@pytest.mark.timeout(240)
def test_forty_pictures_in_random_company_are_those_made_alone(up: Up) -> None:
    palette = Palette(samplers=SAMPLERS, sizes=((32, 32), (24, 32), (32, 48)))
    started_s = time.monotonic()

    tally = play(up.client, palette, Random(4), count=40, pictures=10)

    print(told(tally, time.monotonic() - started_s))
    assert not tally.wrong
    assert tally.ends["succeeded"] > tally.ends.total() / 2
    assert max(tally.company) > 1  # there was company at all
