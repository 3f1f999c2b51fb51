"""`python -m benchmarks.side_by_side`: the same jobs through ours and the peers, in turns.

    python -m benchmarks.side_by_side --systems ours,litserve,rq --rounds 3 --seconds 40
    python -m benchmarks.side_by_side --processes 2 --threads 1 --out results/two_by_one

Loads: `alike` and `unlike` closed at saturation, then `unlike` open at shares of each system's own
capacity, and `light`: one at a time. README says how to read it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks import gpu_machine
from benchmarks.side_by_side import report, systems
from benchmarks.side_by_side.jobs import Mix, job_at
from benchmarks.side_by_side.loads import Outcome, closed, open_loop
from benchmarks.side_by_side.systems import NAMES, Machine, Running, started
from jobs.settings import ROOT

LIGHT = "light: one at a time"


def main() -> None:
    """Run all rounds, and write the report after each."""
    options = _options()
    machine = Machine(
        model=options.model.resolve(), processes=options.processes, threads=options.threads
    )
    run: dict[str, Any] = {"machine": _machine(options), "ceiling": {}, "rows": []}
    if options.ceiling:
        run["ceiling"] = _ceiling(machine, options.side)
    for number in range(options.rounds):
        for name in options.systems:
            print(f"round {number + 1}: {name}", file=sys.stderr)
            try:
                with started(name, machine) as running:
                    run["rows"] += asyncio.run(_measured(name, running, options))
            except Exception as error:  # noqa: BLE001 - a peer that does not start is a row, too
                print(f"  {type(error).__name__}: {error}", file=sys.stderr)
                run.setdefault("not_measured", {})[name] = f"{type(error).__name__}: {error}"
            _write(run, options.out)
    print(report.text(run))


async def _measured(
    name: str, running: Running, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Return one row a load."""
    make = running.make
    await _first(running, options.side)
    rows: list[dict[str, Any]] = []

    async def add(load: str, work: Any) -> dict[str, Any]:
        before = running.usage()
        outcome: Outcome = await work
        after = running.usage()
        figures = outcome.figures()
        cpu_s = after["cpu_s"] - before["cpu_s"]
        done = max(1, figures["images"])
        figures["cpu_ms_an_image"] = round(cpu_s * 1000 / done, 1)
        figures["memory_mib"] = round(after["memory_mib"])
        rows.append({"system": name, "load": load, **figures})
        print(f"  {load}: {figures['images_per_s']} images/s", file=sys.stderr)
        return figures

    at = partial(_job, side=options.side)
    capacity = 0.0
    for mix in options.mixes:
        loop = closed(
            make, at(mix), in_flight=options.in_flight, warm_s=options.warm, seconds=options.seconds
        )
        capacity = (await add(mix, loop))["images_per_s"]
    for share in options.shares:  # of the capacity of the last mix
        rate = capacity * share
        if rate:
            loop = open_loop(make, at(options.mixes[-1]), per_s=rate, seconds=options.seconds)
            await add(f"{options.mixes[-1]}, Poisson at {share:g} of its own capacity", loop)
    if options.light:
        loop = closed(make, at("alike"), in_flight=1, warm_s=2, seconds=options.seconds / 2)
        await add(LIGHT, loop)
    return rows


def _job(mix: Mix, *, side: int) -> Any:
    return lambda index: job_at(mix, index, side=side)


async def _first(running: Running, side: int) -> None:
    """Wait for the first picture: a server that is up may still load its model.

    Raises RuntimeError with the last failure if the server ends, or has none in five minutes.
    """
    last: Exception | None = None
    for _ in range(600):
        if not running.alive:
            break
        try:
            await running.make(job_at("alike", 0, side=side))
        except Exception as error:  # noqa: BLE001 - refused until it is there
            last = error
            await asyncio.sleep(0.5)
        else:
            return
    raise RuntimeError(f"no first picture ({last}); its output: {systems.LOG}")


def _ceiling(machine: Machine, side: int) -> dict[str, Any]:
    argv = [sys.executable, "-m", "benchmarks.side_by_side.ceiling", str(machine.model)]
    both = machine.threads * machine.processes
    made = subprocess.run(
        [*argv, str(both), str(side)], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return json.loads(made.stdout)


def _machine(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "commit": gpu_machine.commit(),
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 1),
        "engines": f"{options.processes} of {options.threads} threads",
        "torch": version("torch"),
        "diffusers": version("diffusers"),
        "in_flight": options.in_flight,
        "seconds": options.seconds,
        "rounds": options.rounds,
    }


def _write(run: dict[str, Any], out: Path | None) -> None:
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.with_suffix(".json").write_text(json.dumps(run, indent=1) + "\n")
        out.with_suffix(".md").write_text(report.text(run))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--systems", type=lambda s: s.split(","), default=list(NAMES))
    parser.add_argument("--mixes", type=lambda s: s.split(","), default=["alike", "unlike"])
    parser.add_argument("--shares", type=_shares, default=[0.8], help="such as 0.5,0.8,1.0,1.5")
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "demo")
    parser.add_argument("--side", type=int, default=128, help="px of the model's pictures")
    parser.add_argument("--processes", type=int, default=1, help="engines, workers, replicas")
    parser.add_argument("--threads", type=int, default=2, help="torch threads of each")
    parser.add_argument("--in-flight", type=int, default=16)
    parser.add_argument("--warm", type=float, default=10)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-ceiling", dest="ceiling", action="store_false")
    parser.add_argument("--no-light", dest="light", action="store_false")
    parser.add_argument("--out", type=Path, help="file for .json and .md")
    return parser.parse_args()


def _shares(text: str) -> list[float]:
    return [float(part) for part in text.split(",") if part]


if __name__ == "__main__":
    main()
