"""What a GPU would be asked: no call across two devices, and no step that waits for it.

A step may wait for the noise that a sampler draws (it is drawn on the CPU, from the image's seed).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_map

from tests.engine.far import Away, Far, sent
from tests.engine.runs import pixels, run
from tests.engine.test_families import FAMILIES
from tests.engine.tiny import a_model, a_request, tiny_pipeline
from worker.engine.model import Model
from worker.messages import Finished

QUIET = ("euler", "heun", "ddim")
NOISY = ("euler_a", "ddpm", "lcm")
STEPS = 2


def modules(model: Model) -> list[torch.nn.Module]:
    return [c for c in model.pipeline.components.values() if isinstance(c, torch.nn.Module)]


@pytest.fixture(scope="module")
def far_away() -> Iterator[tuple[Model, Away]]:
    model = a_model(tiny_pipeline(), lane_width=4)
    model.promises.at(16, 16)
    with sent(*modules(model)) as away:
        yield model, away
    model.close()


def waited(model: Model, away: Away, sampler: str, steps: int) -> tuple[int, int]:
    """How often it was waited for in two pictures' making, and their model calls."""
    away.waits.clear()
    requests = [a_request(seed=i, steps=steps, sampler=sampler) for i in range(2)]
    ends = run(model, requests).values()
    assert all(isinstance(end, Finished) for end in ends), ends
    return sum(away.waits.values()), sum(end.calls for end in ends if isinstance(end, Finished))


@pytest.mark.parametrize("sampler", [*QUIET, *NOISY])
def test_no_step_waits_for_the_device(far_away: tuple[Model, Away], sampler: str):
    waited(*far_away, sampler, STEPS)  # the text is encoded once

    few, calls = waited(*far_away, sampler, STEPS)
    seen = dict(far_away[1].waits)
    many, more_calls = waited(*far_away, sampler, 2 * STEPS)

    per_call = (many - few) / (more_calls - calls)
    assert per_call <= (1 if sampler in NOISY else 0), seen
    assert few / 2 <= 9 + (STEPS if sampler in NOISY else 0), seen  # to begin and end a picture


@pytest.mark.parametrize("name", ["edm", "flux", "z-image", "aura-flow"])
def test_a_familys_rows_and_times_meet_on_the_device(name: str):
    family = FAMILIES[name]
    model = family.model()
    requests = [family.request(i) for i in range(2)]
    wanted = {name: pixels(end) for name, end in run(model, requests).items()}
    spoken = model.pipeline.encode_prompt
    with sent(*modules(model)):
        model.pipeline.encode_prompt = lambda *a, **k: tree_map(there, spoken(*a, **k))
        ends = run(model, requests)

    for request in requests:
        # Over there some operations are made of others, and round otherwise.
        pairs = zip(pixels(ends[request.id]), wanted[request.id], strict=True)
        assert max(abs(a - b) for a, b in pairs) <= 1
    model.close()


def there(value: Any) -> Any:
    return Far(value) if isinstance(value, torch.Tensor) and not isinstance(value, Far) else value


def test_what_a_gpu_refuses_is_refused_here_too():
    with Away():
        far = torch.ones(3, device="meta")
        with pytest.raises(RuntimeError, match="two devices"):
            far + torch.ones(3)
        assert (far + torch.tensor(1.0)).cpu().tolist() == [2.0, 2.0, 2.0]
