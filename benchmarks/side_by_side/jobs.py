"""Jobs of a load: alike, unlike, or one long one among short ones; drawn from a seed.

Owns the mixes. Must not know any system. Invariant: the k-th job of a mix is the same for every
system and in every run.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from random import Random
from typing import Any, Literal

Mix = Literal["alike", "unlike", "long-among-short"]
MIXES: tuple[Mix, ...] = ("alike", "unlike", "long-among-short")
SAMPLERS = ("dpmpp_2m", "euler", "ddim", "unipc")
COLOURS = ("red", "blue", "green", "yellow")
THINGS = ("house", "boat", "car", "cat")
GROUNDS = ("snowy field", "blue ocean", "gray road", "grass field")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One image: the words and settings that every system understands."""

    prompt: str
    negative_prompt: str = ""
    steps: int = 25
    guidance: float = 4.0
    sampler: str = "dpmpp_2m"
    width: int
    height: int
    seed: int

    def as_json(self) -> dict[str, Any]:
        """Return the job in the peers' form."""
        return asdict(self)


def job_at(mix: Mix, index: int, *, side: int) -> Job:
    """Return the job `index` of a mix, on a model whose pictures are `side` px wide."""
    draw = Random(f"{mix} {index}")
    prompt = f"a {draw.choice(COLOURS)} {draw.choice(THINGS)} on a {draw.choice(GROUNDS)}"
    if mix == "alike":
        return Job(prompt=prompt, width=side, height=side, seed=index)
    if mix == "long-among-short":
        steps = 100 if index % 12 == 0 else 8
        return Job(prompt=prompt, steps=steps, width=side, height=side, seed=index)
    wide = draw.random() < 0.3
    return Job(
        prompt=prompt,
        negative_prompt=draw.choice(("", "blurred", "a cat")),
        steps=draw.randint(8, 40),
        guidance=round(draw.uniform(1.0, 9.0), 1),
        sampler=draw.choice(SAMPLERS),
        width=side * 5 // 4 if wide else side,
        height=side * 3 // 4 if wide else side,
        seed=index,
    )
