"""The samplers by public name, with advice and cost.

Owns names and words only, so that the API can list, validate and price without torch;
`worker/engine/samplers.py` makes diffusers objects of the names, and a test holds the two
together. Invariant: a name, once published, never changes its meaning.

Left out on purpose: IPNDM (its times run 1..0, not 999..0: noise from any model named here).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal

# What a model's network predicts: noise or velocity of a diffusion, the straight flow of a
# rectified-flow model, or the preconditioned output of EDM training.
Prediction = Literal["diffusion", "flow", "edm"]

DIFFUSION: tuple[Prediction, ...] = ("diffusion",)
FLOW: tuple[Prediction, ...] = ("flow",)
EDM: tuple[Prediction, ...] = ("edm",)

DISTILLED_STEPS = 50  # LCM and TCD pick theirs from the 50 that such models were distilled from
# Diffusion solvers on a flow's times, which a shift crowds together near the start: two that are
# equal stop the solver: at a shift of 12 from 100 steps on, at 7 from 150, at 3 from 400.
BORROWED_STEPS = 80


@dataclass(frozen=True, slots=True)
class Sampler:
    """A sampler's advice, model calls and limits. `calls_per_step`, `extra_calls`: model calls."""

    title: str
    good_for: str
    predictions: tuple[Prediction, ...] = DIFFUSION
    from_image: bool = True  # can begin in the middle, with an input image
    adds_noise: bool = False  # draws fresh noise at every step (from the image's own seed)
    calls_per_step: int = 1
    extra_calls: int = 0
    max_steps: int = 999  # of 1000 trained times the solvers need one to step to

    def model_calls(self, steps: int) -> int:
        """Return the model calls of `steps` steps: the real cost of an image."""
        # A single step is one call for all of them: nothing to look ahead to, nothing to warm up.
        return 1 if steps == 1 else self.calls_per_step * steps + self.extra_calls


def _second_order(title: str, good_for: str, *, adds_noise: bool = False) -> Sampler:
    # Two calls a step, except the last, which has no step to look ahead to: 23 calls for 12.
    return Sampler(title, good_for, adds_noise=adds_noise, calls_per_step=2, extra_calls=-1)


def _borrowed(title: str, good_for: str) -> Sampler:
    return Sampler(title, good_for, FLOW, from_image=False, max_steps=BORROWED_STEPS)


SAMPLERS: dict[str, Sampler] = {
    "dpmpp_2m": Sampler(
        "DPM++ 2M", "The default: clean images in 20 to 30 steps, the same for every run."
    ),
    "dpmpp_2m_karras": Sampler(
        "DPM++ 2M Karras", "As DPM++ 2M with more steps at low noise: finer detail in few steps."
    ),
    "dpmpp_2m_sde": Sampler(
        "DPM++ 2M SDE", "Richer texture than DPM++ 2M for some more steps (25+).", adds_noise=True
    ),
    "dpmpp_2m_sde_karras": Sampler(
        "DPM++ 2M SDE Karras", "The richest texture of the fast ones; 25 to 40.", adds_noise=True
    ),
    "dpmpp_3m": Sampler("DPM++ 3M", "As DPM++ 2M, one order higher: for 30 steps and more."),
    "dpmpp_3m_karras": Sampler("DPM++ 3M Karras", "DPM++ 3M with more steps at low noise."),
    "dpmpp_2s": Sampler("DPM++ 2S", "Steadier than DPM++ 2M where guidance is high."),
    "dpmpp_2s_karras": Sampler("DPM++ 2S Karras", "DPM++ 2S with more steps at low noise."),
    "dpmpp_sde": _second_order(
        "DPM++ SDE", "Lively detail in as few as 10 to 15 steps, two calls each.", adds_noise=True
    ),
    "dpmpp_sde_karras": _second_order(
        "DPM++ SDE Karras", "DPM++ SDE with more steps at low noise.", adds_noise=True
    ),
    "euler": Sampler("Euler", "Simple, fast and predictable; a good first choice at any count."),
    "euler_karras": Sampler("Euler Karras", "Euler with more steps at low noise."),
    "euler_a": Sampler(
        "Euler ancestral",
        "Soft and varied; the image keeps changing as steps grow.",
        adds_noise=True,
    ),
    "heun": _second_order("Heun", "More exact than Euler at twice the calls a step."),
    "heun_karras": _second_order("Heun Karras", "Heun with more steps at low noise."),
    "dpm2": _second_order("DPM2", "Second order, deterministic; good at 15 to 20 steps."),
    "dpm2_karras": _second_order("DPM2 Karras", "DPM2 with more steps at low noise."),
    "dpm2_a": _second_order(
        "DPM2 ancestral", "DPM2 with fresh noise each step: varied, painterly.", adds_noise=True
    ),
    "lms": Sampler("LMS", "Linear multistep: an early classic, smooth at 30 steps and more."),
    "lms_karras": Sampler("LMS Karras", "LMS with more steps at low noise."),
    "pndm": Sampler(
        "PNDM",
        "The sampler of Stable Diffusion 1's release; one call more than steps.",
        extra_calls=1,
    ),
    "ddim": Sampler("DDIM", "The reference: deterministic, best for repeating papers; 50 steps."),
    "ddim_eta": Sampler(
        "DDIM, eta 1",
        "DDIM with the full noise of DDPM: varied, for 50 steps and more.",
        adds_noise=True,
    ),
    "ddpm": Sampler(
        "DDPM", "The original stochastic process; needs 100 steps and more.", adds_noise=True
    ),
    "deis": Sampler("DEIS", "Good images in very few steps (10 to 15)."),
    "deis_karras": Sampler("DEIS Karras", "DEIS with more steps at low noise."),
    "unipc": Sampler("UniPC", "Predictor and corrector: often the best at 8 to 12 steps."),
    "unipc_karras": Sampler("UniPC Karras", "UniPC with more steps at low noise."),
    "sa_solver": Sampler(
        "SA-Solver", "Stochastic Adams: fine detail at 20 to 40 steps.", adds_noise=True
    ),
    "lcm": Sampler(
        "LCM",
        "For models distilled to 1 to 8 steps (LCM, Turbo); blurry on others.",
        adds_noise=True,
        max_steps=DISTILLED_STEPS,
    ),
    "tcd": Sampler(
        "TCD",
        "For models distilled by trajectory consistency: 4 to 8 steps.",
        adds_noise=True,
        max_steps=DISTILLED_STEPS,
    ),
    "edm_euler": Sampler("EDM Euler", "Euler for models trained the EDM way.", EDM),
    "edm_dpmpp_2m": Sampler("EDM DPM++ 2M", "DPM++ 2M for models trained the EDM way.", EDM),
    "flow_euler": Sampler(
        "Flow Euler", "The standard for flow models: straight paths need no more.", FLOW
    ),
    "flow_heun": Sampler(
        "Flow Heun",
        "More exact than Flow Euler at twice the calls a step.",
        FLOW,
        calls_per_step=2,
        extra_calls=-1,
    ),
    "flow_lcm": Sampler(
        "Flow LCM", "For flow models distilled to 1 to 8 steps.", FLOW, adds_noise=True
    ),
    # Diffusion solvers on a flow's times: they cannot begin in the middle (no `scale_noise`).
    "flow_unipc": _borrowed("Flow UniPC", "Fewer steps than Flow Euler for the same detail."),
    "flow_dpmpp_2m": _borrowed("Flow DPM++ 2M", "Second order for flow models; 15 to 25."),
    "flow_dpmpp_2s": _borrowed("Flow DPM++ 2S", "The steadier second order for flow models."),
    "flow_deis": _borrowed("Flow DEIS", "Flow models in very few steps."),
}


@functools.cache  # asked for each job
def samplers_for(prediction: Prediction) -> tuple[str, ...]:
    """Return the names of the samplers that fit a model's prediction, in the catalogue's order."""
    return tuple(name for name, s in SAMPLERS.items() if prediction in s.predictions)
