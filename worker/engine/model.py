"""A loaded model: its pipeline behind gates, its exactness, and a pipeline shell per image.

Owns the construction of one pipeline call per request. Knows no batch and no request but the one
that a shell is made for. Invariant: with the gates closed, or called from outside, the pipeline
behaves exactly as diffusers made it.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jobs.contract.loras import LoraFolder
from jobs.contract.model_file import ModelEntry
from jobs.contract.samplers import SAMPLERS
from worker.engine.adapters import Adapters, label, untuned
from worker.engine.exactness import Promises, weakest
from worker.engine.fingerprint import fingerprint, parts_hash, tensors_hash
from worker.engine.gated_pipeline import Gated
from worker.engine.gates import Gate
from worker.engine.image_call import ImageCall
from worker.engine.model_files import Digests, files_of
from worker.engine.previews import ColourMap, Preview, fit
from worker.engine.probes import begun, example, first_calls, stand_ins
from worker.engine.profiles.base import Profile
from worker.engine.samplers import RECIPES, SamplerPool
from worker.engine.selftest import Verdict
from worker.engine.signatures import Packed
from worker.engine.vae_seed import seed_draws
from worker.engine.variants import picture_arguments, steps_of
from worker.messages import ImageRequest, ModelReport

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Extras:
    """A model's parts besides its pipeline: its folder, ControlNets, LoRA files."""

    folder: Path | None = None
    controls: Mapping[str, Any] = field(default_factory=dict[str, Any])
    loras: LoraFolder | None = None


class Model:
    """A pipeline behind gates, and its reproducibility at each size."""

    def __init__(
        self,
        entry: ModelEntry,
        pipeline: Any,
        profile: Profile,
        *,
        extras: Extras | None = None,
        state_dir: Path | None = None,
        self_test: bool = True,
    ) -> None:
        self.entry = entry
        self.pipeline = pipeline
        self.profile = profile = profile.fitted_to(pipeline)
        self.load_s = 0.0
        extras = extras or Extras()
        self._controls = extras.controls
        self._control_hashes = {name: tensors_hash(c) for name, c in self._controls.items()}
        self._gated = self._gate(pipeline)
        self._adapters = Adapters(self._gated, extras.loras, self._gate, kept=entry.lora_sets)
        self.samplers = SamplerPool(
            pipeline.scheduler, set_by_pipeline=profile.sets_sampler, only=profile.samplers
        )
        weights = _digest(entry, extras.folder, pipeline, profile, state_dir)
        self.fingerprint = fingerprint(entry, weights, pipeline, str(pipeline.device))
        self.promises = Promises(
            self.fingerprint,
            self._probe,
            # Each process compiles its widths anew: in the self-test, while the supervisor waits,
            # and not for minutes in the first step of the first image.
            state_dir=None if entry.speed.compile else state_dir,
            pinned_width=entry.lane_width,
            enabled=self_test,
        )
        self.open()

    @property
    def gates(self) -> tuple[Gate, ...]:
        """The gates on the model's own modules."""
        return self._gated.gates

    @property
    def weight_bytes(self) -> int:
        """Bytes of its weights in memory, ControlNets and adapters included."""
        return self._own_bytes + self._adapters.own_bytes

    @cached_property
    def _own_bytes(self) -> int:
        parts = [*self.pipeline.components.values(), *self._controls.values()]
        modules = [p for p in parts if isinstance(p, torch.nn.Module)]
        return sum(t.numel() * t.element_size() for part in modules for t in part.parameters())

    @cached_property
    def _colours(self) -> ColourMap | None:
        """Map from latents to colours, for previews; fitted at the first use. None: no previews."""
        try:
            return fit(getattr(self.pipeline, self.profile.decoder))
        except Exception:  # a VAE of an unknown kind costs its previews, and nothing else
            log.warning("engine.no_previews", extra={"model": self.entry.id}, exc_info=True)
            return None

    def open(self) -> None:
        """Put the gates in place."""
        self._gated.open()

    def close(self) -> None:
        """Remove the gates, which restores the pipeline as diffusers made it."""
        self._gated.close()

    def report(self) -> ModelReport:
        """Report its reproducibility at the default size, the weakest over all kinds of input."""
        defaults = self.entry.defaults
        verdict = self.promises.at(defaults.width, defaults.height)
        others = [self.verdict_for(example(self.entry, kind)) for kind in self.entry.inputs]
        return ModelReport(
            model=self.entry.id,
            load_s=self.load_s,
            reproducibility=weakest([*others, verdict]).reproducibility,
            lane_widths=verdict.lanes.widths,
            samplers=self.samplers.names,
            fingerprint=self.fingerprint,
            image_steps_per_s=verdict.rows_per_s / 2 or None,
        )

    def call_for(self, request: ImageRequest) -> ImageCall:
        """Create an image's own pipeline call, not started. Raises Unservable."""
        # On the CPU: the noise of a seed is then the same on every device.
        generator = torch.Generator("cpu").manual_seed(request.seed)
        sampler = self.samplers.take(request.sampler, generator)
        loras = self._adapters.find(request.loras)
        worn = self._adapters.worn(loras)
        # Same modules; attributes that a call sets on its pipeline stay its own.
        shell = copy.copy(worn.gated.variants.for_request(request))
        shell.scheduler = sampler
        seed_draws(shell, request.seed)
        arguments = self.profile.arguments(request, shell)
        arguments |= picture_arguments(request, self.profile, shell)
        arguments |= {
            k: v for k, v in RECIPES[request.sampler].call.items() if self.profile.takes(shell, k)
        }

        def make() -> np.ndarray:
            output = shell(**arguments, generator=generator, output_type="np", return_dict=False)
            return output[0][0]

        steps = SAMPLERS[request.sampler].model_calls(steps_of(request, self.profile))
        calls = self.profile.calls_per_step(request) + (request.control is not None)
        beside = self._beside(request, label(loras))
        call = ImageCall(request, make, expected_calls=steps * calls, beside=beside)
        call.tuned = worn.tuned
        if request.preview_every_s is not None and self._colours is not None:
            call.preview = Preview(self._colours, request.width, request.height)
            call.preview.watch(sampler)
        return call

    def verdict_for(self, request: ImageRequest) -> Verdict:
        """Return the verdict for a request; the first of its kind runs a test of a second or so."""
        loras = self._adapters.find(request.loras)
        beside = self._beside(request, untuned(loras)) + begun(request)
        if not beside:
            return self.promises.at(request.width, request.height)
        probe = partial(self._probe, like=request)  # with adapters at 1: files are tested
        return self.promises.at(request.width, request.height, beside, probe)

    def prepared(self, request: ImageRequest) -> bool:
        """Return whether a request can start at once: adapters loaded, size tested."""
        if not self._adapters.noted(request.loras):
            return False
        loras = self._adapters.find(request.loras)
        beside = self._beside(request, untuned(loras)) + begun(request)
        tested = self.promises.known(request.width, request.height, beside)
        return self._adapters.refused(loras) or (tested and self._adapters.loaded(loras))

    def prepare(self, request: ImageRequest) -> None:
        """Load and test what a request needs; in pieces inside of `interruptible.Pieces`.

        Raises Unservable, DeviceMemoryFull.
        """
        self._adapters.worn(self._adapters.find(request.loras))
        self.verdict_for(request)

    def fingerprint_for(self, call: ImageCall, verdict: Verdict) -> str:
        """Return the fingerprint: under an equal one, the same request gives the same bits."""
        # All widths of a rule agree, so the narrowest names their bits, whatever the load was.
        lane = verdict.lanes.widths[0] if call.request.exact else "free"
        return f"{self.fingerprint} lane={lane} sampler={call.request.sampler}{call.beside}"

    def _gate(self, pipeline: Any, only: Container[str] | None = None) -> Gated:
        float32_on_cpu = self.entry.dtype == "float32" and pipeline.device.type == "cpu"
        return Gated(
            pipeline,
            self.profile,
            controls=self._controls,
            batch_invariant=float32_on_cpu,
            only=only,
        )

    def _beside(self, request: ImageRequest, loras: str) -> str:
        """Name the networks used besides the model's own, as words of a fingerprint."""
        words = ""
        if request.control and request.control.name in self._control_hashes:
            words += f" control={request.control.name}@{self._control_hashes[request.control.name]}"
        return words + (f" loras={loras}" if loras else "")

    def _probe(self, width: int, height: int, like: ImageRequest | None = None) -> list[Packed]:
        """Return model calls of every form that requests `like` this make; None: text only."""
        requests = stand_ins(self.entry, width, height, like, self.samplers.names)
        return first_calls([self.call_for(request) for request in requests], self.profile)


def _digest(
    entry: ModelEntry, folder: Path | None, pipeline: Any, profile: Profile, state_dir: Path | None
) -> str:
    """Return a digest of a model's files, or of its tensors in memory if it has none."""
    if folder is None:
        return parts_hash(pipeline)
    left_out = [name for name, part in profile.load.items() if part is None]
    return Digests(state_dir).of(folder, files_of(folder, entry.variant, left_out))
