"""A pipeline behind gates: its own modules, its variants, its ControlNets.

Owns where the gates of one pipeline are. Knows no request and no promise. Invariant: with the
gates closed, or called from outside, the pipeline behaves exactly as diffusers made it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from worker.engine.gates import Gate, Kind
from worker.engine.profiles.base import Profile
from worker.engine.steady import steady, unsteady
from worker.engine.variants import Variants


class Gated:
    """One pipeline, and the gates on its modules."""

    def __init__(
        self,
        pipeline: Any,
        profile: Profile,
        *,
        controls: Mapping[str, Any] | None = None,
        steady_rows: bool = False,
    ) -> None:
        """`controls`: ControlNets by name; `steady_rows`: see steady.py."""
        self.pipeline = pipeline
        self.variants = Variants(pipeline, profile, controls or {})
        self._profile = profile
        self._controls = controls or {}
        self._steady_rows = steady_rows
        self.gates = tuple(self._make_gates())
        pipeline.set_progress_bar_config(disable=True)

    def open(self) -> None:
        """Put the gates in place."""
        for gate in self.gates:
            gate.open()
            if gate.kind is Kind.ROWS and self._steady_rows:
                steady(gate.owner)

    def close(self) -> None:
        """Give the modules back as they were."""
        for gate in self.gates:
            gate.close()
            if gate.kind is Kind.ROWS:
                unsteady(gate.owner)

    def _make_gates(self) -> Iterator[Gate]:
        pipeline, profile = self.pipeline, self._profile
        for name in profile.encoders:
            if (module := getattr(pipeline, name, None)) is not None:
                yield Gate(module, "forward", Kind.ENCODE)
        for name in profile.denoisers:
            if (module := getattr(pipeline, name, None)) is not None:
                yield Gate(module, "forward", Kind.ROWS)
        for module in self._controls.values():
            yield Gate(module, "forward", Kind.ROWS)
        vae = getattr(pipeline, profile.decoder, None)
        if vae is not None:
            yield Gate(vae, "decode", Kind.DECODE)
