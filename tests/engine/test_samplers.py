"""Every sampler, bit for bit what diffusers' own pipeline makes with it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from jobs.contract.samplers import SAMPLERS, samplers_for
from tests.engine.runs import pixels, plain, run
from tests.engine.tiny import a_request
from worker.engine.errors import Unservable
from worker.engine.model import Model
from worker.engine.samplers import RECIPES
from worker.messages import Finished, ImageRequest

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


@pytest.fixture(scope="module")
def made(model: Model) -> list[tuple[ImageRequest, Finished]]:
    """A picture by each sampler, all in one batch with unlike steps, guidance and seeds."""
    requests = [
        a_request(sampler=name, steps=3 + i % 3, guidance_scale=(7.5, 3.0, 5.0)[i % 3], seed=i)
        for i, name in enumerate(DIFFUSION)
    ]
    ends = run(model, requests)
    return [(request, ends[request.id]) for request in requests]


def test_all_samplers_in_one_batch_are_bit_equal_to_the_plain_pipeline(model: Model, made):
    different = [r.sampler for r, end in made if pixels(end) != plain(model, r)]

    assert not different


def test_each_sampler_makes_the_calls_that_its_price_says(made):
    told = {r.sampler: SAMPLERS[r.sampler].model_calls(r.steps) for r, _ in made}

    assert {r.sampler: end.calls for r, end in made} == told


def test_samplers_that_add_noise_take_it_from_the_seed(model: Model, made):
    noisy = [(r, end) for r, end in made if SAMPLERS[r.sampler].adds_noise]
    again = [replace(r, id=f"again-{r.id}") for r, _ in noisy]

    ends = run(model, again)

    for (request, end), same in zip(noisy, again, strict=True):
        assert pixels(ends[same.id]) == pixels(end), request.sampler


def test_a_flow_sampler_is_refused_for_a_diffusion_model(model: Model):
    with pytest.raises(Unservable, match="dpmpp_2m"):
        model.samplers.take("flow_euler", torch.Generator())
