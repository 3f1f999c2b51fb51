"""Samplers: build a diffusers scheduler for each image from a sampler's public name.

Owns the recipes behind the names of `jobs/contract/samplers.py`. Knows no batch: a sampler belongs
to one image and is stepped by that image's own pipeline call. Invariant: every solver option that
the name promises is set here, whatever the model's own configuration says.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from importlib import import_module
from typing import Any

import torch

from jobs.contract.samplers import SAMPLERS, Prediction, samplers_for
from worker.engine.errors import Unservable


@dataclass(frozen=True, slots=True)
class Recipe:
    """The parts of a named sampler: diffusers module and class, options, call arguments."""

    module: str  # below diffusers.schedulers; imported when first used (LMS alone brings scipy)
    cls: str
    options: Mapping[str, object] = field(default_factory=dict)
    call: Mapping[str, object] = field(default_factory=dict)  # extra arguments of the pipeline call


def _dpm(order: int, algorithm: str = "dpmsolver++", *, karras: bool = False) -> Recipe:
    options = {"solver_order": order, "algorithm_type": algorithm, "use_karras_sigmas": karras}
    return Recipe("scheduling_dpmsolver_multistep", "DPMSolverMultistepScheduler", options)


def _karras(module: str, cls: str, *, on: bool = False, **options: object) -> Recipe:
    return Recipe(f"scheduling_{module}", cls, {"use_karras_sigmas": on, **options})


def _flow(module: str, cls: str, **options: object) -> Recipe:
    # Solvers made for diffusion take the flow of the same model through these two switches.
    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
    return Recipe(f"scheduling_{module}", cls, {**flow, **options})


# These clip to -1..1 by default, which is for pixels: latents reach 4 and more.
LATENT: Mapping[str, object] = {"clip_sample": False}

_SINGLE = ("dpmsolver_singlestep", "DPMSolverSinglestepScheduler")
_SDE = ("dpmsolver_sde", "DPMSolverSDEScheduler")
_EULER = ("euler_discrete", "EulerDiscreteScheduler")
_HEUN = ("heun_discrete", "HeunDiscreteScheduler")
_DPM2 = ("k_dpm_2_discrete", "KDPM2DiscreteScheduler")
_LMS = ("lms_discrete", "LMSDiscreteScheduler")
_DEIS = ("deis_multistep", "DEISMultistepScheduler")
_UNIPC = ("unipc_multistep", "UniPCMultistepScheduler")

RECIPES: dict[str, Recipe] = {
    "dpmpp_2m": _dpm(2),
    "dpmpp_2m_karras": _dpm(2, karras=True),
    "dpmpp_2m_sde": _dpm(2, "sde-dpmsolver++"),
    "dpmpp_2m_sde_karras": _dpm(2, "sde-dpmsolver++", karras=True),
    "dpmpp_3m": _dpm(3),
    "dpmpp_3m_karras": _dpm(3, karras=True),
    # The last step to sigma 0 is first order for singlestep solvers, or the picture stays noisy.
    "dpmpp_2s": _karras(*_SINGLE, solver_order=2, lower_order_final=True),
    "dpmpp_2s_karras": _karras(*_SINGLE, on=True, solver_order=2, lower_order_final=True),
    "dpmpp_sde": _karras(*_SDE),
    "dpmpp_sde_karras": _karras(*_SDE, on=True),
    "euler": _karras(*_EULER),
    "euler_karras": _karras(*_EULER, on=True),
    "euler_a": Recipe("scheduling_euler_ancestral_discrete", "EulerAncestralDiscreteScheduler"),
    "heun": _karras(*_HEUN),
    "heun_karras": _karras(*_HEUN, on=True),
    "dpm2": _karras(*_DPM2),
    "dpm2_karras": _karras(*_DPM2, on=True),
    "dpm2_a": _karras("k_dpm_2_ancestral_discrete", "KDPM2AncestralDiscreteScheduler"),
    "lms": _karras(*_LMS),
    "lms_karras": _karras(*_LMS, on=True),
    "pndm": Recipe("scheduling_pndm", "PNDMScheduler", {"skip_prk_steps": True}),
    "ddim": Recipe("scheduling_ddim", "DDIMScheduler", LATENT),
    "ddim_eta": Recipe("scheduling_ddim", "DDIMScheduler", LATENT, call={"eta": 1.0}),
    "ddpm": Recipe("scheduling_ddpm", "DDPMScheduler", LATENT),
    "deis": _karras(*_DEIS),
    "deis_karras": _karras(*_DEIS, on=True),
    "unipc": _karras(*_UNIPC),
    "unipc_karras": _karras(*_UNIPC, on=True),
    "sa_solver": _karras("sasolver", "SASolverScheduler", algorithm_type="data_prediction"),
    "lcm": Recipe("scheduling_lcm", "LCMScheduler", LATENT),
    "tcd": Recipe("scheduling_tcd", "TCDScheduler", LATENT, call={"eta": 0.3}),
    "edm_euler": Recipe("scheduling_edm_euler", "EDMEulerScheduler"),
    "edm_dpmpp_2m": Recipe("scheduling_edm_dpmsolver_multistep", "EDMDPMSolverMultistepScheduler"),
    "flow_euler": Recipe("scheduling_flow_match_euler_discrete", "FlowMatchEulerDiscreteScheduler"),
    "flow_heun": Recipe("scheduling_flow_match_heun_discrete", "FlowMatchHeunDiscreteScheduler"),
    "flow_lcm": Recipe("scheduling_flow_match_lcm", "FlowMatchLCMScheduler"),
    "flow_unipc": _flow(*_UNIPC),
    "flow_dpmpp_2m": _flow("dpmsolver_multistep", "DPMSolverMultistepScheduler", solver_order=2),
    "flow_dpmpp_2s": _flow(*_SINGLE, solver_order=2, lower_order_final=True),
    "flow_deis": _flow(*_DEIS),
}

# From 21 steps on, Karras' spacing of a noise without end gives these two equal times: they stop.
_NO_ZERO_SNR = {"dpmpp_2m_karras", "dpmpp_2m_sde_karras", "dpmpp_3m_karras", "unipc_karras"}


class SamplerPool:
    """The samplers of one model: a prototype per name, copied for every image."""

    def __init__(
        self, base: Any, *, set_by_pipeline: Sequence[str] = (), only: Sequence[str] = ()
    ) -> None:
        """Create a pool from `base`, the model's own sampler.

        `set_by_pipeline`: arguments that the pipeline passes to `set_timesteps`.

        `only`: the names that its pipeline runs with; empty: all.
        """
        self._config: Mapping[str, Any] = base.config
        self._flow = _is_flow(base)
        self._set_by_pipeline = set(set_by_pipeline)
        self._only = frozenset(only)
        self._prototypes: dict[str, Any] = {}

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names that fit this model's prediction and pipeline."""
        kind: Prediction = "flow" if self._flow else "diffusion"
        kind = "edm" if "sigma_data" in self._config and not self._flow else kind
        return tuple(n for n in samplers_for(kind) if self._fits_pipeline(n))

    def take(self, name: str, generator: torch.Generator) -> Any:
        """Return a sampler for one image, its noise from `generator`. Raises Unservable."""
        if name not in SAMPLERS or name not in self.names:
            raise Unservable(
                f"sampler {name!r} does not fit this model: use {', '.join(self.names)}"
            )
        # A copy costs 0.05 to 0.15 ms, building anew up to 85 ms (DPM2 ancestral).
        sampler = copy.deepcopy(self._prototype(name))
        sampler.set_timesteps = _here(sampler.set_timesteps)
        if hasattr(sampler, "noise_sampler_seed"):
            # DPMSolverSDE ignores the call's generator: without this no run repeats another.
            sampler.noise_sampler_seed = generator.initial_seed()
        if "generator" in inspect.signature(sampler.step).parameters:
            # Flow pipelines do not pass theirs on: the noise would be nobody's, not the seed's.
            sampler.step = partial(sampler.step, generator=generator)
        return sampler

    def _prototype(self, name: str) -> Any:
        if name not in self._prototypes:
            recipe = RECIPES[name]
            options = dict(recipe.options)
            if options.get("use_flow_sigmas"):
                options["flow_shift"] = self._config.get("shift") or 1.0
            self._prototypes[name] = _class_of(recipe).from_config(dict(self._config), **options)
        return self._prototypes[name]

    def _fits_pipeline(self, name: str) -> bool:
        if self._only and name not in self._only:
            return False
        recipe, passed = RECIPES[name], self._set_by_pipeline
        if self._config.get("rescale_betas_zero_snr") and name in _NO_ZERO_SNR:
            return False
        if not passed <= set(inspect.signature(_class_of(recipe).set_timesteps).parameters):
            return False
        # The diffusion solvers take `mu` only where the model's own sampler shifts by it.
        shifts = bool(self._config.get("use_dynamic_shifting"))
        return shifts or "mu" not in passed or "use_flow_sigmas" not in recipe.options


def _here(set_timesteps: Callable[..., None]) -> Callable[..., None]:
    """Wrap `set_timesteps` to keep the times on the CPU whatever device is passed.

    Samplers read the times (DDIM 4 times a step, DDPM 12): of times on a GPU each reading would
    wait until the GPU has done all that is queued. Packing sends them to the model with the rows.
    """
    parameters = inspect.signature(set_timesteps)

    @functools.wraps(set_timesteps)  # pipelines look at the signature
    def on_cpu(*args: Any, **kwargs: Any) -> None:
        given = parameters.bind(*args, **kwargs)
        if "device" in parameters.parameters:
            given.arguments["device"] = "cpu"
        set_timesteps(*given.args, **given.kwargs)

    return on_cpu


def _class_of(recipe: Recipe) -> Any:
    return getattr(import_module(f"diffusers.schedulers.{recipe.module}"), recipe.cls)


def _is_flow(base: Any) -> bool:
    if base.config.get("prediction_type") == "flow_prediction":
        return True
    return type(base).__name__.startswith("FlowMatch")
