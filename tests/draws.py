"""Draws: random pictures in random company, arriving at random, each compared with itself alone.

`python -m tests.draws --count 1000 --seed 1` starts a whole service (`python3 deploy up`) on the
shipped demo model. `--pictures` unlike pictures are made one at a time first; then so many draws
of them are sent, some canceled on the way, and every pixel hash is held against the one made
alone. Exit code 1 if one differs or one fails. tests/e2e/test_draws.py does it in small.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from printworks import Client, Job
from printworks.types import JobOptions

from jobs.samplers import samplers_for
from jobs.settings import ROOT
from tests.e2e.running import Up

PROMPTS = (
    "a red bicycle on a cobblestone street",
    "a blue cat on a snowy field",
    "a yellow umbrella in front of a brick wall",
    "a green boat on the sea",
)
NEGATIVES = ("", "", "red", "snow")
GUIDANCE = (1.0, 2.0, 4.0, 7.5)
STEPS = (2, 8)
CANCELED = 0.05  # of the draws
OPEN = 12  # at once: more than fit into one model call
PAUSE_S = 0.3  # between two arrivals, at most


@dataclass(frozen=True)
class Palette:
    """What is drawn from."""

    samplers: Sequence[str]
    sizes: Sequence[tuple[int, int]]

    def spec(self, chance: Random) -> tuple[str, JobOptions]:
        """One picture: its prompt, and everything else."""
        width, height = chance.choice(self.sizes)
        options: JobOptions = {
            "width": width,
            "height": height,
            "steps": chance.randint(*STEPS),
            "guidance_scale": chance.choice(GUIDANCE),
            "negative_prompt": chance.choice(NEGATIVES),
            "sampler": chance.choice(self.samplers),
            "seed": chance.randrange(2**31),
            "priority": chance.choice(("low", "normal", "high")),
        }
        return chance.choice(PROMPTS), options


@dataclass
class Tally:
    """What came of it."""

    ends: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    company: list[float] = field(default_factory=list)  # images sharing a model call, of each


def play(client: Client, palette: Palette, chance: Random, *, count: int, pictures: int) -> Tally:
    """Each of `pictures` alone, then `count` of them in company."""
    specs = [palette.spec(chance) for _ in range(pictures)]
    alone = [_came_of(_ended(client, client.submit(prompt, **more))) for prompt, more in specs]
    print(f"{pictures} made alone", flush=True)
    tally, under_way = Tally(), dict[str, tuple[int, bool]]()
    for number in range(count):
        which, dropped = chance.randrange(pictures), chance.random() < CANCELED
        prompt, more = specs[which]
        job = client.submit(prompt, **more)
        under_way[job.id] = which, dropped
        _pause(chance.uniform(0, PAUSE_S))
        if dropped:
            client.cancel(job.id)
        if number % 50 == 49:
            print(f"{number + 1} sent, {len(tally.wrong)} wrong", flush=True)
        while len(under_way) >= (OPEN if number < count - 1 else 1):
            for ended in _some_ended(client, under_way):
                _judge(ended, *under_way.pop(ended.id), alone, tally)
    return tally


def _some_ended(client: Client, under_way: dict[str, tuple[int, bool]]) -> Iterator[Job]:
    """Those that have ended; waits for the oldest, so that nobody is asked in a hurry."""
    yield _ended(client, client.get(next(iter(under_way))))
    for job_id in list(under_way):
        if (job := client.get(job_id)).final:
            yield job


def _judge(job: Job, which: int, dropped: bool, alone: Sequence[str], tally: Tally) -> None:
    tally.ends[job.status] += 1
    if job.status == "canceled" and dropped:
        return
    if job.status == "succeeded":
        tally.company.append(job.metrics["batch_size_mean"])
    if (came := _came_of(job)) != alone[which]:
        tally.wrong.append(f"{job.id}: {came}, and alone {alone[which]}: {job.resolved}")


def _ended(client: Client, job: Job) -> Job:
    return client.wait(job.id, timeout_s=300.0)


def _came_of(job: Job) -> str:
    """The pixels; or why there are none: two steps of some samplers give one flat colour."""
    return job.images[0].pixel_sha256 if job.status == "succeeded" else f"{job.status} {job.error}"


def _pause(seconds: float) -> None:
    threading.Event().wait(seconds)


def told(tally: Tally, took_s: float) -> str:
    """The figure, in a line or two."""
    mean = sum(tally.company) / max(1, len(tally.company))
    return (
        f"{sum(tally.ends.values())} draws in {took_s:.0f} s: {dict(tally.ends)}; "
        f"{mean:.1f} images shared a model call, {max(tally.company, default=0):.1f} at most; "
        f"{len(tally.wrong)} differ from the picture made alone, or failed"
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.draws", description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="draws-") as folder:
        up = Up(Path(folder) / "data", ROOT / "models" / "models.toml", "--no-first-picture")
        try:
            up.wait_ready()
            palette = _palette()
            started_s = time.monotonic()
            tally = play(
                up.client,
                palette,
                Random(options.seed),
                count=options.count,
                pictures=options.pictures,
            )
        finally:
            up.end()
    print(told(tally, time.monotonic() - started_s))
    for line in tally.wrong[:20]:
        print(line, file=sys.stderr)
    return 1 if tally.wrong else 0


def _palette() -> Palette:
    """All samplers of the shipped model, and four sizes."""
    sizes = ((64, 64), (96, 64), (64, 96), (128, 64))
    return Palette(samplers=samplers_for("diffusion"), sizes=sizes)


if __name__ == "__main__":
    raise SystemExit(main())
