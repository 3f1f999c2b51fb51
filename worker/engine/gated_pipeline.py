"""A pipeline behind gates: its own modules, its variants, its ControlNets.

Owns where the gates of one pipeline are. Knows no request and no verdict. Invariant: with the
gates closed, or called from outside, the pipeline behaves exactly as diffusers made it.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from typing import Any

from worker.engine.batch_invariant import make_batch_invariant, undo_batch_invariant
from worker.engine.gates import Gate, Kind
from worker.engine.profiles.base import Profile
from worker.engine.vae_float32 import give_back, hold_in_float32
from worker.engine.variants import Variants


class Gated:
    """One pipeline, and the gates on its modules."""

    def __init__(
        self,
        pipeline: Any,
        profile: Profile,
        *,
        controls: Mapping[str, Any] | None = None,
        batch_invariant: bool = False,
        only: Container[str] | None = None,
    ) -> None:
        """Create the gates, closed; `controls`: ControlNets by name; see batch_invariant.py.

        `only`: the names of the modules that are this pipeline's own, where it shares the others
        with one that has its gates already.
        """
        self.pipeline = pipeline
        self.variants = Variants(pipeline, profile, controls or {})
        self._profile = profile
        self._controls = controls or {}
        self._batch_invariant = batch_invariant
        self._only = only
        self.gates = tuple(self._make_gates())
        pipeline.set_progress_bar_config(disable=True)

    def open(self) -> None:
        """Put the gates in place."""
        for gate in self.gates:
            gate.open()
            if gate.kind is Kind.ROWS and self._batch_invariant:
                make_batch_invariant(gate.owner)
            if gate.kind is Kind.DECODE:
                hold_in_float32(gate.owner)

    def close(self) -> None:
        """Restore the modules as they were."""
        for gate in self.gates:
            gate.close()
            if gate.kind is Kind.ROWS:
                undo_batch_invariant(gate.owner)
            if gate.kind is Kind.DECODE:
                give_back(gate.owner)

    def _make_gates(self) -> Iterator[Gate]:
        profile = self._profile
        for name in filter(self._owns, profile.encoders):
            yield Gate(getattr(self.pipeline, name), "forward", Kind.ENCODE)
        for name in filter(self._owns, profile.denoisers):
            yield Gate(getattr(self.pipeline, name), "forward", Kind.ROWS)
        if self._only is None:
            for module in self._controls.values():
                yield Gate(module, "forward", Kind.ROWS)
        if self._owns(profile.decoder):
            yield Gate(getattr(self.pipeline, profile.decoder), "decode", Kind.DECODE)

    def _owns(self, name: str) -> bool:
        there = getattr(self.pipeline, name, None) is not None
        return there and (self._only is None or name in self._only)
