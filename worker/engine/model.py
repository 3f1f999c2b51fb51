"""One loaded model: its pipeline, the gates on its modules, and one image's shell of it.

Owns the interception of a diffusers pipeline. Knows no batch and no request but the one it
makes a shell for. Invariant: with the gates closed, or called from outside, the pipeline
behaves exactly as diffusers made it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jobs.catalogue import ModelEntry
from jobs.samplers import SAMPLERS
from worker.engine.call import ImageCall
from worker.engine.errors import Dropped, PipelineFailed
from worker.engine.fingerprint import fingerprint
from worker.engine.gates import Gate, Kind
from worker.engine.packing import Packed, take_apart
from worker.engine.profiles.base import Profile
from worker.engine.promises import Promises
from worker.engine.samplers import RECIPES, SamplerShelf
from worker.engine.selftest import Verdict
from worker.engine.steady import steady, unsteady
from worker.engine.variants import Variants, picture_arguments, steps_of
from worker.messages import ImageRequest, ModelReport


class Model:
    """A pipeline behind gates, and what it promises at each size."""

    def __init__(
        self,
        entry: ModelEntry,
        pipeline: Any,
        profile: Profile,
        *,
        folder: Path | None = None,
        state_dir: Path | None = None,
        self_test: bool = True,
    ) -> None:
        self.entry = entry
        self.pipeline = pipeline
        self.profile = profile = profile.fitted_to(pipeline)
        self.load_s = 0.0
        self._variants = Variants(pipeline, profile)
        self.samplers = SamplerShelf(
            pipeline.scheduler, set_by_pipeline=profile.sets_sampler, only=profile.samplers
        )
        self.fingerprint = fingerprint(entry, folder, pipeline, str(pipeline.device))
        self.promises = Promises(
            self.fingerprint,
            self._probe,
            state_dir=state_dir,
            pinned_width=entry.lane_width,
            enabled=self_test,
        )
        self.gates = list(self._make_gates())
        pipeline.set_progress_bar_config(disable=True)
        self.open()

    @property
    def weight_bytes(self) -> int:
        """What its weights take in memory."""
        parts = [p for p in self.pipeline.components.values() if isinstance(p, torch.nn.Module)]
        return sum(t.numel() * t.element_size() for part in parts for t in part.parameters())

    def open(self) -> None:
        """Put the gates in place."""
        for gate in self.gates:
            gate.open()
            if gate.kind is Kind.ROWS and self._is_float32_on_cpu():
                steady(gate.owner)

    def close(self) -> None:
        """Give the pipeline back as it was."""
        for gate in self.gates:
            gate.close()
            if gate.kind is Kind.ROWS:
                unsteady(gate.owner)

    def report(self) -> ModelReport:
        """What it promises on this machine at its default size."""
        defaults = self.entry.defaults
        verdict = self.promises.at(defaults.width, defaults.height)
        return ModelReport(
            model=self.entry.id,
            load_s=self.load_s,
            reproducibility=verdict.reproducibility,
            lane_widths=verdict.lanes.widths,
            samplers=self.samplers.names,
            fingerprint=self.fingerprint,
            image_steps_per_s=verdict.rows_per_s / 2 or None,
        )

    def call_for(self, request: ImageRequest) -> ImageCall:
        """The image's own pipeline call, not started. Raises Unservable."""
        # On the CPU: the noise of a seed is then the same on every device.
        generator = torch.Generator("cpu").manual_seed(request.seed)
        sampler = self.samplers.take(request.sampler, generator)
        # Same modules; what a call notes down on its pipeline stays its own.
        shell = copy.copy(self._variants.for_request(request))
        shell.scheduler = sampler
        arguments = self.profile.arguments(request, shell) | picture_arguments(request)
        arguments |= {
            k: v for k, v in RECIPES[request.sampler].call.items() if self.profile.takes(shell, k)
        }

        def make() -> np.ndarray:
            made = shell(**arguments, generator=generator, output_type="np", return_dict=False)
            return made[0][0]

        steps = SAMPLERS[request.sampler].model_calls(steps_of(request))
        expected = steps * self.profile.calls_per_step(request)
        return ImageCall(request, make, expected_calls=expected)

    def fingerprint_for(self, request: ImageRequest, verdict: Verdict) -> str:
        """Within one such line, the same request gives the same bits."""
        # All widths of a rule agree, so the narrowest names their bits, whatever the load was.
        lane = verdict.lanes.widths[0] if request.exact else "free"
        return f"{self.fingerprint} lane={lane} sampler={request.sampler}"

    def _probe(self, width: int, height: int) -> Packed:
        """The first denoiser call of a default request at that size; the rest is dropped."""
        defaults = self.entry.defaults
        request = ImageRequest(
            id="probe",
            model=self.entry.id,
            prompt="a red apple on a wooden table",
            width=width,
            height=height,
            steps=4,
            guidance_scale=max(2.0, defaults.guidance_scale),
            seed=0,
            sampler=defaults.sampler,
        )
        call = self.call_for(request)
        call.start(0.0)
        while call.parked and call.parked.gate.kind is not Kind.ROWS:
            call.answer(call.parked.gate.run(**call.parked.arguments), company=1)
        if call.parked is None:
            raise call.error or PipelineFailed("the pipeline never called its denoiser")
        packed = take_apart(call.parked, self.profile, call.memo)
        call.throw(Dropped())
        return packed

    def _is_float32_on_cpu(self) -> bool:
        return self.entry.dtype == "float32" and self.pipeline.device.type == "cpu"

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
