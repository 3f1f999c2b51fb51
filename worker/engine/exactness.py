"""Exactness per model and size: self-tested at first use, stored on disk.

Owns the verdicts and their file. Knows no batch. Invariant: a verdict is used only under the
fingerprint of its self-test.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from worker.engine.fingerprint import short_hash
from worker.engine.lane_widths import LaneRule
from worker.engine.memory import Need
from worker.engine.selftest import UNTESTED, Verdict, self_test
from worker.engine.signatures import Packed

log = logging.getLogger(__name__)

KEPT = 512  # verdicts, the last used: of sizes, ControlNets and sets of LoRA files

# width and height in px -> a real call of each network that takes part, the denoiser's last
Probe = Callable[[int, int], list[Packed]]


class Promises:
    """The verdicts of one model; with `enabled=False` nothing is tested or promised."""

    def __init__(
        self,
        fingerprint: str,
        probe: Probe,
        *,
        state_dir: Path | None = None,
        pinned_width: int | None = None,
        enabled: bool = True,
    ) -> None:
        self._probe = probe
        self._pinned = pinned_width
        self._enabled = enabled
        self._file = state_dir and state_dir / f"promises-{short_hash(fingerprint)}.json"
        self._verdicts = self._read()
        self._tested: dict[str, Verdict] = {}  # by signature: kinds of request share calls

    def known(self, width: int, height: int, beside: str = "") -> bool:
        """Return whether `at` has a verdict ready."""
        return not self._enabled or f"{width}x{height}{beside}" in self._verdicts

    def at(self, width: int, height: int, beside: str = "", probe: Probe | None = None) -> Verdict:
        """Return the verdict at a size in px; the first time this runs a test of a second or so.

        `beside`: names of networks besides the model's own; `probe` returns their calls as well.
        """
        if not self._enabled:
            return UNTESTED
        size = f"{width}x{height}{beside}"
        if size not in self._verdicts:
            calls = (probe or self._probe)(width, height)
            verdict = weakest([self._tested_of(call) for call in calls])
            log.info("engine.self_test", extra={"size": size, "verdict": verdict})
            _keep(self._verdicts, size, verdict)
            self._write()
        verdict = self._verdicts[size] = self._verdicts.pop(size)  # the last used come last
        return verdict

    def _tested_of(self, call: Packed) -> Verdict:
        if call.signature not in self._tested:
            _keep(self._tested, call.signature, self_test(call, self._pinned))
        return self._tested[call.signature]

    def _read(self) -> dict[str, Verdict]:
        if self._file is None or not self._file.is_file():
            return {}
        try:
            kept = json.loads(self._file.read_text())
            return {size: _from_json(verdict) for size, verdict in kept.items()}
        except (ValueError, KeyError, TypeError):
            log.warning("engine.promises_unreadable", extra={"file": str(self._file)})
            return {}  # an unreadable file costs a second self-test, nothing else

    def _write(self) -> None:
        if self._file is None:
            return
        self._file.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({size: _to_json(v) for size, v in self._verdicts.items()}, indent=1)
        beside = self._file.with_suffix(".new")
        beside.write_text(text)
        beside.replace(self._file)


def _keep(verdicts: dict[str, Verdict], name: str, verdict: Verdict) -> None:
    """Add a verdict, and drop the oldest beyond KEPT: each new set of adapters has signatures."""
    verdicts[name] = verdict
    while len(verdicts) > KEPT:
        del verdicts[next(iter(verdicts))]


def weakest(verdicts: Sequence[Verdict]) -> Verdict:
    """Combine the verdicts of several networks: the last one's, as far as all agree."""
    last = verdicts[-1]
    widths = [set(verdict.lanes.widths) for verdict in verdicts]
    common = [w for w in last.lanes.widths if all(w in one for one in widths)]
    if any(verdict.reproducibility == "unpacked" for verdict in verdicts) or not common:
        return UNTESTED
    costs = dict(zip(last.lanes.widths, last.lanes.cost_ms, strict=False))
    exact = all(verdict.reproducibility == "exact" for verdict in verdicts)
    return replace(
        last,
        reproducibility="exact" if exact else "tolerance",
        lanes=LaneRule(tuple(common), tuple(costs[w] for w in common if w in costs)),
        cap_rows=min(last.cap_rows, common[-1]),
        need=max((verdict.need for verdict in verdicts), key=lambda need: need.of(common[-1])),
        patterns=frozenset[str]().union(*(verdict.patterns for verdict in verdicts)),
    )


def _to_json(verdict: Verdict) -> dict[str, object]:
    return {
        "reproducibility": verdict.reproducibility,
        "widths": verdict.lanes.widths,
        "cost_ms": verdict.lanes.cost_ms,
        "cap_rows": verdict.cap_rows,
        "rows_per_s": verdict.rows_per_s,
        "need": [verdict.need.base, verdict.need.row],
        "patterns": sorted(verdict.patterns),
    }


def _from_json(kept: dict[str, Any]) -> Verdict:
    return Verdict(
        kept["reproducibility"],
        LaneRule(tuple(kept["widths"]), tuple(kept["cost_ms"])),
        cap_rows=int(kept["cap_rows"]),
        rows_per_s=float(kept["rows_per_s"]),
        need=Need(*map(int, kept["need"])),
        patterns=frozenset(kept["patterns"]),
    )
