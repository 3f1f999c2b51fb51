"""The same request gives the same pixels alone and in any company, through the whole service."""

from __future__ import annotations

import time
from random import Random

import pytest

from tests.draws import TINY_KINDS, Subject, play, told
from tests.e2e.running import Up

SAMPLERS = ("ddim", "euler_a", "dpmpp_2m_sde", "heun", "unipc", "lcm", "pndm", "sa_solver")


@pytest.mark.timeout(400)
def test_pictures_of_every_kind_in_random_company_are_those_made_alone(up: Up) -> None:
    subjects = [
        Subject("tiny", SAMPLERS, ((64, 64),), TINY_KINDS),
        Subject("demo", SAMPLERS, ((128, 128),), ("image",)),
    ]
    started_s = time.monotonic()

    tally = play(up.client, subjects, Random(4), count=40, pictures=16)

    print(told(tally, time.monotonic() - started_s))
    assert not tally.wrong
    assert tally.ends["succeeded"] > tally.ends.total() / 2
    kinds = set("+".join(tally.kinds).split("+"))
    assert kinds >= {"image", "mask", "control", "lora"}
    assert max(tally.company) > 1  # there was company at all
