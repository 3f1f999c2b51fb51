"""Every sampler, bit for bit what diffusers' own pipeline makes with it."""

from __future__ import annotations

import pytest

from jobs.samplers import SAMPLERS, samplers_for
from tests.engine.runs import pixels, plain, run
from tests.engine.tiny import a_request
from worker.engine.errors import Unservable
from worker.engine.model import Model
from worker.engine.samplers import RECIPES

DIFFUSION = samplers_for("diffusion")
pytestmark = [
    pytest.mark.filterwarnings("ignore:Should have ta>=t0:UserWarning"),  # torchsde's rounding
    pytest.mark.filterwarnings("ignore:Should have tb<=t1:UserWarning"),
    pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning"),  # diffusers' SASolver
]


def test_every_published_name_has_a_recipe_and_the_other_way_round():
    assert set(RECIPES) == set(SAMPLERS)


def test_there_are_at_least_25_samplers_for_a_diffusion_model(model: Model):
    assert len(model.samplers.names) >= 25
    assert model.samplers.names == DIFFUSION


def test_all_samplers_in_one_batch_are_bit_equal_to_the_plain_pipeline(model: Model):
    requests = [
        a_request(sampler=name, steps=4 + i % 3, guidance_scale=(7.5, 3.0, 5.0)[i % 3], seed=i)
        for i, name in enumerate(DIFFUSION)
    ]

    ends = run(model, requests)

    different = [r.sampler for r in requests if pixels(ends[r.id]) != plain(model, r)]
    assert not different


def test_each_sampler_makes_the_calls_that_its_price_says(model: Model):
    requests = [a_request(sampler=name, steps=4) for name in DIFFUSION]

    ends = run(model, requests)

    told = {r.sampler: SAMPLERS[r.sampler].model_calls(4) for r in requests}
    assert {r.sampler: ends[r.id].calls for r in requests} == told


def test_every_sampler_answers_to_the_seed(model: Model):
    pairs = [(a_request(sampler=n, steps=3), a_request(sampler=n, steps=3)) for n in DIFFUSION]
    others = [a_request(sampler=n, steps=3, seed=8) for n in DIFFUSION]

    ends = run(model, [r for pair in pairs for r in pair] + others)

    for (one, same), other in zip(pairs, others, strict=True):
        assert pixels(ends[one.id]) == pixels(ends[same.id]), one.sampler
        assert pixels(ends[one.id]) != pixels(ends[other.id]), one.sampler


def test_a_flow_sampler_is_refused_for_a_diffusion_model(model: Model):
    with pytest.raises(Unservable, match="dpmpp_2m"):
        model.samplers.take("flow_euler", seed=1)
