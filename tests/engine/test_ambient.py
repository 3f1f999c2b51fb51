"""Thread settings that a pipeline switches on are its own, parked or not."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline

from tests.engine.floats import differing, each_alone
from tests.engine.runs import alone, plain
from tests.engine.tiny import a_model, a_request, tiny_pipeline
from worker.engine.model import Model
from worker.engine.thread_state import switched

SWITCHES: dict[str, Any] = {
    "autocast": lambda on: torch.autocast("cpu", torch.bfloat16, enabled=on),
    "inference mode": lambda on: torch.inference_mode(mode=on),
}


@pytest.fixture(scope="module", params=SWITCHES)
def switching(request: pytest.FixtureRequest) -> Iterator[Model]:
    """A model whose pipeline switches something on where the number of steps is even."""

    class Switching(StableDiffusionPipeline):
        @functools.wraps(StableDiffusionPipeline.__call__)  # profiles look at the signature
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            with SWITCHES[request.param](on=kwargs["num_inference_steps"] % 2 == 0):
                return super().__call__(*args, **kwargs)

    pipeline = Switching(**tiny_pipeline().components, requires_safety_checker=False)
    model = a_model(pipeline, family="sd")
    yield model
    model.close()


def test_images_beside_one_that_switches_keep_their_bits_and_so_does_it(switching: Model):
    requests = [a_request(seed=i, steps=4 + i, sampler="euler") for i in range(4)]

    own = each_alone(switching, requests)

    assert differing(switching, own, requests) == []
    assert [r.id for r in requests if alone(switching, r) != plain(switching, r)] == []
    assert not switched()
    assert torch.is_grad_enabled()
