"""The step counts that the table allows are those that the samplers take: each is run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_edm_dpmsolver_multistep import EDMDPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler as FlowMatch,
)

from jobs.contract.samplers import BORROWED_STEPS, SAMPLERS, samplers_for
from tests.engine.tiny import tiny_sampler
from worker.engine.samplers import SamplerPool

pytestmark = [
    pytest.mark.filterwarnings("ignore:Should have ta>=t0:UserWarning"),  # torchsde's rounding
    pytest.mark.filterwarnings("ignore:Should have tb<=t1:UserWarning"),
    pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning"),  # diffusers' SASolver
]
# An integral, a Brownian tree or a search a step: seconds at many steps.
SLOW = {"lms", "dpm2", "dpmpp_sde", "sa_solver", "unipc"}
ZERO_SNR = DDIMScheduler(
    beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
    prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing",
)  # fmt: skip


def calls_made(base: Any, name: str, steps: int) -> int:
    """Run it to the end on a few numbers; how often a model would have been called."""
    generator = torch.Generator().manual_seed(0)
    sampler = SamplerPool(base).take(name, generator)
    sampler.set_timesteps(steps)
    latents = torch.randn(1, 4, 2, 2, generator=generator)
    noise = latents * 0.1
    for time in sampler.timesteps:
        if hasattr(sampler, "scale_model_input"):
            sampler.scale_model_input(latents, time)
        latents = sampler.step(noise, time, latents, return_dict=False)[0]
    assert torch.isfinite(latents).all(), (name, steps)
    return len(sampler.timesteps)


def counts(name: str) -> list[int]:
    slow = any(name.startswith(one) for one in SLOW)
    return [1, 2, 5, min(SAMPLERS[name].max_steps, 21 if slow else 150)]


@pytest.mark.parametrize("name", samplers_for("diffusion"))
def test_a_sampler_takes_what_the_table_allows_in_the_calls_that_it_says(name: str):
    made = [calls_made(tiny_sampler(), name, steps) for steps in counts(name)]

    assert made == [SAMPLERS[name].model_calls(steps) for steps in counts(name)]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(samplers_for("diffusion")) - {"lcm", "tcd"}))
def test_a_sampler_takes_its_longest_run(name: str):
    most = SAMPLERS[name].max_steps

    assert calls_made(tiny_sampler(), name, most) == SAMPLERS[name].model_calls(most)


@pytest.mark.parametrize("name", samplers_for("edm"))
def test_an_edm_sampler_does(name: str):
    base = EDMDPMSolverMultistepScheduler(sigma_max=80.0, sigma_data=0.5)

    made = [calls_made(base, name, steps) for steps in counts(name)]

    assert made == [SAMPLERS[name].model_calls(steps) for steps in counts(name)]


@pytest.mark.parametrize("shift", [1.0, 3.0, 12.0])
@pytest.mark.parametrize("name", samplers_for("flow"))
def test_a_flow_sampler_does_at_every_shift_in_use(name: str, shift: float):
    made = [calls_made(FlowMatch(shift=shift), name, steps) for steps in counts(name)]

    assert made == [SAMPLERS[name].model_calls(steps) for steps in counts(name)]


def test_the_limit_of_borrowed_solvers_is_there_for_a_reason():
    with pytest.raises((IndexError, AssertionError)):
        calls_made(FlowMatch(shift=12.0), "flow_dpmpp_2m", 100)

    assert BORROWED_STEPS < 100


@pytest.mark.parametrize("name", SamplerPool(ZERO_SNR).names)
def test_a_model_that_begins_with_pure_noise_is_offered_only_what_runs_on_it(name: str):
    assert calls_made(ZERO_SNR, name, 30) == SAMPLERS[name].model_calls(30)


def test_which_samplers_a_model_that_begins_with_pure_noise_lacks():
    lacking = set(samplers_for("diffusion")) - set(SamplerPool(ZERO_SNR).names)

    assert lacking == {
        "dpmpp_2m_karras",
        "dpmpp_2m_sde_karras",
        "dpmpp_3m_karras",
        "unipc_karras",
    }
