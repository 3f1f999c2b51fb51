"""Draws: random pictures in random company, arriving at random, each compared with itself alone.

`python -m tests.draws --count 1000 --seed 1` starts a whole service (`python3 deploy up`) on the
shipped model and a tiny one with a ControlNet, both with LoRAs. `--pictures` unlike requests (text,
pictures to begin with, masks, ControlNets, LoRAs) are made one at a time first; then so many draws
of them are sent, some canceled on the way, and every pixel hash is held against the one made
alone. Exit code 1 if one differs, fails or is not `exact`. `--kinds image mask` draws of those
only. tests/e2e/test_draws.py does it in small.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

from PIL import Image
from printworks import Client, Job
from printworks.types import JobOptions

from jobs.contract.samplers import SAMPLERS, samplers_for
from tests.e2e.running import Up, write_models

PROMPTS = (
    "a red bicycle on a cobblestone street",
    "a blue cat on a snowy field",
    "a yellow umbrella in front of a brick wall",
    "a green boat on the sea",
)
NEGATIVES = ("", "", "red", "snow")
GUIDANCE = (1.0, 2.0, 4.0, 7.5)
STEPS = (2, 8)
STRENGTHS = (0.6, 0.8, 1.0)
CANCELED = 0.05  # of the draws
OPEN = 12  # at once: more than fit into one model call
PAUSE_S = 0.3  # between two arrivals, at most
DEMO_KINDS = ("text", "image", "mask", "lora", "image+lora")
TINY_KINDS = (*DEMO_KINDS, "control", "image+control", "mask+control", "control+lora")


@dataclass(frozen=True)
class Subject:
    """A model, and what is asked of it; of its kinds each picture is one."""

    model: str
    samplers: Sequence[str]
    sizes: Sequence[tuple[int, int]]
    kinds: Sequence[str]
    lora: str = "ink"
    control: str = "edges"


@dataclass(frozen=True)
class Spec:
    """One picture: of which kind, its prompt, and everything else."""

    kind: str
    prompt: str
    options: JobOptions


def drawn(subject: Subject, chance: Random, client: Client) -> Spec:
    """A picture of that model; what it begins with or follows is sent first."""
    kind = chance.choice(subject.kinds)
    begins = {"image", "mask"} & set(kind.split("+"))
    width, height = chance.choice(subject.sizes)
    able = [name for name in subject.samplers if SAMPLERS[name].from_image or not begins]
    options: JobOptions = {
        "model": subject.model,
        "width": width,
        "height": height,
        "steps": chance.randint(*STEPS),
        "guidance_scale": chance.choice(GUIDANCE),
        "negative_prompt": chance.choice(NEGATIVES),
        "sampler": chance.choice(able),
        "seed": chance.randrange(2**31),
        "priority": chance.choice(("low", "normal", "high")),
    }

    def sent(picture: Image.Image) -> str:
        file = io.BytesIO()
        picture.save(file, "PNG")
        return client.upload(file.getvalue()).id

    if begins:
        options["image"] = {"input": sent(a_picture(chance, width, height))}
        options["strength"] = chance.choice(STRENGTHS)
    if "mask" in begins:
        options["mask"] = {"input": sent(a_mask(chance, width, height))}
    if "control" in kind:
        picture = sent(a_picture(chance, width, height))
        options["control"] = {"name": subject.control, "image": {"input": picture}}
    if "lora" in kind:
        options["loras"] = [{"name": subject.lora, "scale": chance.choice((0.5, 1.0))}]
    return Spec(kind, chance.choice(PROMPTS), options)


def a_picture(chance: Random, width: int, height: int) -> Image.Image:
    """Noise, a slope of colours, or one flat colour: each has its own way to be a special case."""
    colours = [tuple(chance.randbytes(3)) for _ in range(4)]
    match chance.choice(("noise", "slope", "flat")):
        case "noise":
            return Image.frombytes("RGB", (width, height), chance.randbytes(width * height * 3))
        case "slope":
            small = Image.new("RGB", (2, 2))
            small.putdata(colours)
            return small.resize((width, height), Image.Resampling.BILINEAR)
        case _:
            return Image.new("RGB", (width, height), colours[0])


def a_mask(chance: Random, width: int, height: int) -> Image.Image:
    """A white box on black."""
    mask = Image.new("RGB", (width, height))
    left, top = chance.randrange(width // 2), chance.randrange(height // 2)
    mask.paste("white", (left, top, left + width // 2, top + height // 2))
    return mask


@dataclass
class Tally:
    """What came of it."""

    ends: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)  # of those that succeeded
    wrong: list[str] = field(default_factory=list)
    company: list[float] = field(default_factory=list)  # images sharing a model call, of each


def play(
    client: Client, subjects: Sequence[Subject], chance: Random, *, count: int, pictures: int
) -> Tally:
    """Each of `pictures` alone, then `count` of them in company."""
    specs = [drawn(chance.choice(subjects), chance, client) for _ in range(pictures)]
    alone = [_came_of(_ended(client, _sent(client, spec))) for spec in specs]
    print(f"{pictures} made alone", flush=True)
    tally, under_way = Tally(), dict[str, tuple[int, bool]]()
    for number in range(count):
        which, dropped = chance.randrange(pictures), chance.random() < CANCELED
        job = _sent(client, specs[which])
        under_way[job.id] = which, dropped
        _pause(chance.uniform(0, PAUSE_S))
        if dropped:
            client.cancel(job.id)
        if number % 50 == 49:
            print(f"{number + 1} sent, {len(tally.wrong)} wrong", flush=True)
        while len(under_way) >= (OPEN if number < count - 1 else 1):
            for ended in _some_ended(client, under_way):
                which, dropped = under_way.pop(ended.id)
                _judge(ended, specs[which].kind, alone[which], tally, dropped=dropped)
    return tally


def _sent(client: Client, spec: Spec) -> Job:
    return client.submit(spec.prompt, **spec.options)


def _some_ended(client: Client, under_way: dict[str, tuple[int, bool]]) -> Iterator[Job]:
    """Those that have ended; waits for the oldest, so that nobody is asked in a hurry."""
    yield _ended(client, client.get(next(iter(under_way))))
    for job_id in list(under_way):
        if (job := client.get(job_id)).final:
            yield job


def _judge(job: Job, kind: str, alone: str, tally: Tally, *, dropped: bool) -> None:
    tally.ends[job.status] += 1
    if job.status == "canceled" and dropped:
        return
    if job.status == "succeeded":
        tally.company.append(job.metrics["batch_size_mean"])
        tally.kinds[kind] += 1
        if job.reproducibility != "exact":
            tally.wrong.append(f"{job.id}, {kind}: made {job.reproducibility}")
    if (came := _came_of(job)) != alone:
        tally.wrong.append(f"{job.id}, {kind}: {came}, and alone {alone}: {job.resolved}")


def _ended(client: Client, job: Job) -> Job:
    return client.wait(job.id, timeout_s=300.0)


def _came_of(job: Job) -> str:
    """Class and pixels; or why there are none: two steps of some samplers give one flat colour."""
    if job.status != "succeeded":
        return f"{job.status} {job.error}"
    return f"{job.reproducibility} {job.images[0].pixel_sha256}"


def _pause(seconds: float) -> None:
    threading.Event().wait(seconds)


def told(tally: Tally, took_s: float) -> str:
    """The figure, in a line or two."""
    mean = sum(tally.company) / max(1, len(tally.company))
    return (
        f"{tally.ends.total()} draws in {took_s:.0f} s: {dict(tally.ends)}; {dict(tally.kinds)}; "
        f"{mean:.1f} images shared a model call, {max(tally.company, default=0):.1f} at most; "
        f"{len(tally.wrong)} differ from the picture made alone, or failed"
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.draws", description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kinds", nargs="+", help="image, mask, control, lora, image+control ...")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="draws-") as folder:
        up = Up(Path(folder) / "data", write_models(Path(folder)), "--no-first-picture")
        try:
            up.wait_ready()
            started_s = time.monotonic()
            tally = play(
                up.client,
                _subjects(options.kinds),
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


def _subjects(kinds: Sequence[str] | None) -> list[Subject]:
    """All samplers of both models, and two sizes of each; of these kinds, if any are named."""
    diffusion = samplers_for("diffusion")
    subjects = [
        Subject("demo", diffusion, ((128, 128), (96, 64)), DEMO_KINDS),
        Subject("tiny", diffusion, ((64, 64), (40, 56)), TINY_KINDS),
    ]
    if kinds is None:
        return subjects
    chosen = [replace(s, kinds=[k for k in s.kinds if k in kinds]) for s in subjects]
    return [subject for subject in chosen if subject.kinds]


if __name__ == "__main__":
    raise SystemExit(main())
