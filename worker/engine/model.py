"""One loaded model: its pipeline, the gates on its modules, and one image's shell of it.

Owns the interception of a diffusers pipeline. Knows no batch and no request but the one it
makes a shell for. Invariant: with the gates closed, or called from outside, the pipeline
behaves exactly as diffusers made it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from jobs.catalogue import ModelEntry
from jobs.samplers import SAMPLERS
from worker.engine.call import ImageCall
from worker.engine.gates import Gate, Kind
from worker.engine.lanes import LaneRule
from worker.engine.profiles.base import Profile
from worker.engine.samplers import RECIPES, SamplerShelf
from worker.messages import ImageRequest, ModelReport, Reproducibility


class Model:
    """A pipeline behind gates. `lanes`, `reproducibility` and `fingerprint` are found later."""

    def __init__(self, entry: ModelEntry, pipeline: Any, profile: Profile) -> None:
        self.entry = entry
        self.pipeline = pipeline
        self.profile = profile
        self.samplers = SamplerShelf(pipeline.scheduler, needs_sigmas=profile.needs_sigmas)
        self.lanes = LaneRule((entry.lane_width or 2,))
        self.reproducibility: Reproducibility = "unpacked"
        self.fingerprint = ""
        self.load_s = 0.0
        self.image_steps_per_s: float | None = None
        self.cap_rows = self.lanes.widest
        self.gates = list(self._make_gates())
        pipeline.set_progress_bar_config(disable=True)
        for gate in self.gates:
            gate.open()

    def close(self) -> None:
        """Give the pipeline back as it was."""
        for gate in self.gates:
            gate.close()

    def report(self) -> ModelReport:
        """What it promises on this machine."""
        return ModelReport(
            model=self.entry.id,
            load_s=self.load_s,
            reproducibility=self.reproducibility,
            lane_widths=self.lanes.widths,
            samplers=self.samplers.names,
            fingerprint=self.fingerprint,
            image_steps_per_s=self.image_steps_per_s,
        )

    def call_for(self, request: ImageRequest) -> ImageCall:
        """The image's own pipeline call, not started. Raises Unservable."""
        sampler = self.samplers.take(request.sampler, request.seed)
        shell = copy.copy(self.pipeline)  # same modules; what a call notes down stays its own
        shell.scheduler = sampler
        arguments = self.profile.arguments(request, shell)
        arguments |= {
            k: v for k, v in RECIPES[request.sampler].call.items() if self.profile.takes(shell, k)
        }
        # On the CPU: the noise of a seed is then the same on every device.
        generator = torch.Generator("cpu").manual_seed(request.seed)

        def make() -> np.ndarray:
            made = shell(**arguments, generator=generator, output_type="np", return_dict=False)
            return made[0][0]

        steps = SAMPLERS[request.sampler].model_calls(request.steps)
        expected = steps * self.profile.calls_per_step(request)
        return ImageCall(request, make, expected_calls=expected)

    def fingerprint_for(self, sampler: str) -> str:
        """Within one such string, the same request gives the same bits."""
        return f"{self.fingerprint} sampler={sampler}"

    def _make_gates(self) -> Iterator[Gate]:
        for name in self.profile.encoders:
            if (module := getattr(self.pipeline, name, None)) is not None:
                yield Gate(module, "forward", Kind.ENCODE)
        for name in self.profile.denoisers:
            if (module := getattr(self.pipeline, name, None)) is not None:
                yield Gate(module, "forward", Kind.ROWS)
        vae = getattr(self.pipeline, self.profile.decoder, None)
        if vae is not None:
            yield Gate(vae, "decode", Kind.DECODE)
