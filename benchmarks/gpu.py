"""Measurements of the engine on this GPU: bits, times, memory, overhead; a JSON file and a page.

    python -m benchmarks.gpu [--minutes 8] [--device cuda|cpu] [--small] [--out FILE] [--parts A,B]

From the clone alone: random weights of the real shapes, nothing is fetched. Every row is printed
and written when it is found; a part that fails or runs out of time says so in its row, and the
rest goes on. What the tables decide: benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks.gpu_machine import ROOT, commit, device_facts, differing
from benchmarks.gpu_parts import Clock, OutOfTime, Part
from benchmarks.gpu_report import Report, Row

TITLES = {
    "kernels": "Which kernels give a row other bits in a wider batch (torch alone)",
    "demo": "The shipped model through the engine: images/s one at a time and together",
    "promises": "What the self-test promises, and whether it holds in other company",
    "bits": "Bit patterns of one row in batches of each width, at three places",
    "curves": "A model call of 1 to 16 images, and the cap that follows",
    "decoding": "One VAE decoding beside one denoiser row in good company",
    "memory": "Peaks of model calls and of one decoding, beside what capacity believes",
    "overhead": "8 images through the engine beside the same model calls bare",
    "waits": "How often a step makes Python wait for the device",
    "graphs": "A lane as one CUDA graph beside the same call from Python",
    "compiled": "Bit patterns with regional compilation, every width compiled for itself",
}
LEAST_S = 3.0  # nothing is begun with less time left


def main() -> int:
    options = _options()
    lacks = differing()
    for name, what in lacks.items():
        print(f"not as pinned: {name} {what}", flush=True)
    try:
        import torch
    except ImportError as error:
        print(f"nothing can be measured without torch: {error}")
        return 2
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda" and not torch.cuda.is_available():
        print("torch finds no CUDA device here; --device cpu --small runs anywhere")
        return 2
    warnings.simplefilter("ignore")
    if options.small:
        torch.set_num_threads(1)
    engine_lacks = _engine_lacks()
    facts = {"commit": options.commit or commit(), **device_facts(device)}
    facts |= {"not as pinned": lacks, "engine": engine_lacks or "imports", "finished": "no"}
    facts |= {"shapes": "small, for a test of this program" if options.small else "real"}
    report = Report(facts, options.out)
    print("\n".join(f"{name}: {value}" for name, value in facts.items()), flush=True)
    clock, started_s = Clock(options.minutes), time.monotonic()
    for part in _parts(device, small=options.small, engine=not engine_lacks):
        if options.parts and part.table not in options.parts:
            continue
        if not options.parts and options.small and part.table == "compiled":
            continue  # tens of seconds of a compiler, for shapes that nobody asks about
        if not _run(part, device.type, clock, report):
            break
    report.close(finished="yes", seconds=round(time.monotonic() - started_s, 1))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--device", choices=("cuda", "cpu"))
    parser.add_argument("--small", action="store_true", help="tiny models: to test this program")
    parser.add_argument("--out", type=Path, help="a JSON file; the page goes beside it as .md")
    parser.add_argument("--parts", type=lambda s: s.split(","), help=", ".join(TITLES))
    parser.add_argument("--commit", help="where the clone has no git")
    options = parser.parse_args()
    if unknown := set(options.parts or ()) - TITLES.keys():
        parser.error(f"no part {', '.join(sorted(unknown))}; there are: {', '.join(TITLES)}")
    if options.out is None and not options.small and options.device != "cpu":
        options.out = ROOT / "benchmarks/results/gpu.json"
    return options


def _engine_lacks() -> str:
    """Return the reason why the engine cannot be imported, or an empty string."""
    try:
        import benchmarks.gpu_company  # noqa: F401
        from worker.engine.process import quiet
    except ImportError as error:
        return f"cannot be imported: {error}"
    quiet()
    return ""


def _parts(device: Any, *, small: bool, engine: bool) -> Iterable[Part]:
    if engine:
        from benchmarks.gpu_plan import parts

        return parts(device, small=small)
    from benchmarks.gpu_kernels import kernel_parts

    return kernel_parts(device, small=small)


def _run(part: Part, device: str, clock: Clock, report: Report) -> bool:
    """Run one part and report its errors; False: the device is broken, and the run must end."""
    print(
        f"\n{part.table} {' '.join(map(str, part.of.values()))} ({clock.left_s:.0f} s left)",
        flush=True,
    )
    add = _adder(part, report)
    if part.needs == "cuda" and device != "cuda":
        add({"failed": "needs a CUDA device"})
        return True
    if clock.left_s < LEAST_S:
        add({"failed": "not begun: out of time"})
        return True
    started_s, broken = time.monotonic(), False
    try:
        with clock.at_most(part.most_s):
            found = part.run()
            for row in [found] if isinstance(found, dict) else found:
                add(row)
    except OutOfTime:
        add({"failed": f"cut short after {time.monotonic() - started_s:.0f} s"})
    except Exception as error:  # noqa: BLE001 - the fence around one part
        broken = type(error).__name__ == "AcceleratorError"
        add({"failed": f"{type(error).__name__}: {str(error)[:300]}"})
    if device == "cuda":
        _release()
    return not broken


def _adder(part: Part, report: Report) -> Callable[[Row], None]:
    return lambda row: report.add(part.table, TITLES[part.table], part.of | row)


def _release() -> None:
    import torch

    gc.collect()
    torch.cuda.empty_cache()


if __name__ == "__main__":
    sys.exit(main())
