"""Evaluation of the committed weights: images of prompts, classified by the judge.

Owns the questions (which prompts under which settings) and the figures; the judge is judge.py, the
presentation card.py. Everything is drawn from the exported folder by the plain pipeline.
"""

import json
import random
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import combinations
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from PIL import Image
from torch import nn

from models.demo.recipe import scenes
from models.demo.recipe.captions import plain_caption
from models.demo.recipe.decoder import psnr
from models.demo.recipe.export import load_pipeline
from models.demo.recipe.judge import Judge, Verdict, accuracy, load_judge
from models.demo.recipe.preview import GUIDANCE, SAMPLERS, STEPS, draw
from models.demo.recipe.vae import LinearEncoder
from models.demo.recipe.world import COLOR_NAMES, GROUND_NAMES, OBJECT_NAMES, SIZES, Scene

CHUNK: Final = 16
GUIDANCES: Final = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0)
STEP_COUNTS: Final = (2, 4, 8, 15, 25, 50)
SHAPES: Final = ((96, 160), (160, 96))
Figures = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Question:
    """Some scenes under one setting."""

    scenes: tuple[Scene, ...]
    steps: int = STEPS
    guidance: float = GUIDANCE
    sampler: str = "dpmpp_2m"
    shape: tuple[int, int] = (128, 128)
    seed: int = 0
    colorless: bool = False
    negative: str | None = None

    def prompts(self) -> list[str]:
        if not self.colorless:
            return [plain_caption(scene) for scene in self.scenes]
        plain = [replace(t, color="") for scene in self.scenes for t in scene.things]
        return [
            plain_caption(replace(scene, things=(thing,)))
            for scene, thing in zip(self.scenes, plain, strict=True)
        ]

    def chunks(self) -> Iterator["Question"]:
        for start in range(0, len(self.scenes), CHUNK):
            part = self.scenes[start : start + CHUNK]
            yield replace(self, scenes=part, seed=self.seed + start)


@dataclass(frozen=True, slots=True)
class Answer:
    """The judge's findings on one picture."""

    verdict: Verdict
    thumbnail: np.ndarray  # (h, w, 3) uint8, a quarter of each side


class Studio:
    """A pool of processes that draw and judge."""

    def __init__(self, weights: Path, workers: int) -> None:
        self._pool = get_context("spawn").Pool(workers, _open_studio, (weights,))

    def ask(self, question: Question) -> list[Answer]:
        return self.ask_all([question])[0]

    def ask_all(self, questions: list[Question]) -> list[list[Answer]]:
        """All at once: a short question alone would leave processes idle."""
        waiting = [self._pool.map_async(_answer, list(q.chunks()), 1) for q in questions]
        return [[answer for part in parts.get() for answer in part] for parts in waiting]


_pipeline: StableDiffusionPipeline
_judge: Judge


def _open_studio(weights: Path) -> None:
    global _pipeline, _judge  # noqa: PLW0603 - one of each in a process of the pool
    torch.set_num_threads(1)
    _pipeline = load_pipeline(weights)
    _pipeline.unet.to(memory_format=torch.channels_last)
    _judge = load_judge()


def _answer(question: Question) -> list[Answer]:
    _pipeline.scheduler = SAMPLERS[question.sampler].from_config(_pipeline.scheduler.config)
    images = draw(
        _pipeline,
        question.prompts(),
        seed=question.seed,
        steps=question.steps,
        guidance=question.guidance,
        negative=question.negative,
        size=question.shape,
    )
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images]))
    verdicts = _judge.verdicts(pixels.permute(0, 3, 1, 2).float() / 255)
    small = [np.asarray(im.resize((im.width // 4, im.height // 4), Image.BOX)) for im in images]
    return [Answer(v, t) for v, t in zip(verdicts, small, strict=True)]


def evaluate(weights: Path, *, prompts: int, others: int, sweep: int, workers: int) -> Figures:
    """`prompts` held-out ones, `others` seen ones and of two things, `sweep` a value of a lever."""
    studio = Studio(weights, workers)
    held_out = _drawn("held out", prompts, held_out=True, things=1)
    seen = _drawn("seen", others, held_out=False, things=1)
    pairs = _drawn("pairs", others, held_out=False, things=2)
    few = held_out[:sweep]
    started = time.monotonic()

    figures: Figures = {"defaults": {"steps": STEPS, "guidance": GUIDANCE, "sampler": "dpmpp_2m"}}
    figures["held_out"] = lone_figures(held_out, studio.ask(Question(held_out)))
    _tell("held out", figures["held_out"])
    figures["seen"] = lone_figures(seen, studio.ask(Question(seen)))
    figures["pairs"] = pair_figures(pairs, studio.ask(Question(pairs)))
    _tell("pairs", figures["pairs"])
    figures["guidance"] = _sweep(studio, few, "guidance", GUIDANCES)
    figures["steps"] = _sweep(studio, few, "steps", STEP_COUNTS)
    figures["samplers"] = _sweep(studio, few, "sampler", tuple(SAMPLERS))
    figures["shapes"] = _sweep(studio, few, "shape", SHAPES)
    figures["negative"] = _negative(studio, seen[:sweep])
    figures["diversity"] = _diversity(studio, held_out[:CHUNK])
    figures["evaluation_minutes"] = round((time.monotonic() - started) / 60, 1)
    return figures


def lone_figures(asked: Iterable[Scene], answers: list[Answer]) -> Figures:
    """Shares of pictures in which the object, the colour, the ground, all three are right."""
    rows = []
    for scene, answer in zip(asked, answers, strict=True):
        (thing,), (object_, color, size) = scene.things, answer.verdict.lone
        rows.append(
            (
                OBJECT_NAMES[object_] == thing.object,
                COLOR_NAMES[color] == thing.color,
                GROUND_NAMES[answer.verdict.ground] == scene.ground,
                SIZES[size] == thing.size,
            )
        )
    right = np.array(rows)
    names = ("object", "color", "ground", "size")
    shares = dict(zip(names, right.mean(axis=0), strict=True))
    shares["all_three"] = right[:, :3].all(axis=1).mean()
    return {"prompts": len(rows)} | {k: round(float(v), 4) for k, v in shares.items()}


def pair_figures(asked: Iterable[Scene], answers: list[Answer]) -> Figures:
    """Two things, whichever is where; and how often the one named first stands on the left."""
    both, colored, ordered, ground = [], [], [], []
    for scene, answer in zip(asked, answers, strict=True):
        verdict = answer.verdict
        got = [(OBJECT_NAMES[o], COLOR_NAMES[c]) for o, c in (verdict.left, verdict.right)]
        want = [(thing.object, thing.color) for thing in scene.things]
        both.append({o for o, _ in got} == {o for o, _ in want})
        colored.append(set(got) == set(want))
        ordered.append(got == want)
        ground.append(GROUND_NAMES[verdict.ground] == scene.ground)
    return {
        "prompts": len(both),
        "both_objects": round(float(np.mean(both)), 4),
        "both_objects_and_colors": round(float(np.mean(colored)), 4),
        "in_order": round(float(np.mean(ordered)), 4),
        "ground": round(float(np.mean(ground)), 4),
    }


def about(weights: Path, state: Path, *, judged: int = 2000) -> Figures:
    """Return figures that need no images: sizes, decoder PSNR, judge accuracy, the training run."""
    pipeline = load_pipeline(weights)
    sizes = {
        "vae_parameters": _parameters(pipeline.vae),
        "unet_parameters": _parameters(pipeline.unet),
        "text_parameters": _parameters(pipeline.text_encoder),
        "megabytes": sum(p.stat().st_size for p in weights.rglob("*.safetensors")) / 1e6,
    }
    path = state / "denoiser.pt"
    run = torch.load(path, mmap=True) if path.exists() else {"pictures_seen": 0, "steps_done": 0}
    return {
        "model": sizes,
        "vae": {"psnr_db": round(psnr(pipeline.vae, LinearEncoder(pipeline.vae), 256), 2)},
        "judge": {"scenes": judged, "accuracy": accuracy(load_judge(), judged)},
        "training": {"pictures": run["pictures_seen"], "steps_done": run["steps_done"]},
    }


def _parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _drawn(name: str, count: int, *, held_out: bool, things: int) -> tuple[Scene, ...]:
    rng = random.Random(f"evaluate {name}")
    return tuple(scenes.draw_scene(rng, held_out=held_out, things=things) for _ in range(count))


def _sweep(
    studio: Studio, asked: tuple[Scene, ...], lever: str, values: tuple[Any, ...]
) -> list[Figures]:
    questions = [replace(Question(asked), **{lever: value}) for value in values]
    rows = []
    for value, answers in zip(values, studio.ask_all(questions), strict=True):
        rows.append({lever: value} | lone_figures(asked, answers))
        _tell(f"{lever} {value}", rows[-1])
    return rows


def _negative(studio: Studio, asked: tuple[Scene, ...]) -> Figures:
    """No colour is asked for; how often is each colour drawn, and how often once it is unwanted?"""
    free = _colors(studio.ask(Question(asked, colorless=True)))
    color = max(COLOR_NAMES, key=free.count)
    less = _colors(studio.ask(Question(asked, colorless=True, negative=color)))
    share, unwanted = free.count(color) / len(free), less.count(color) / len(less)
    return {
        "prompts": len(free),
        "color": color,
        "share": round(share, 4),
        "share_when_negative": round(unwanted, 4),
    }


def _colors(answers: list[Answer]) -> list[str]:
    return [COLOR_NAMES[answer.verdict.lone[1]] for answer in answers]


def _diversity(studio: Studio, asked: tuple[Scene, ...], seeds: int = 4) -> Figures:
    """Measure the distance between pictures of one prompt: RMS of thumbnails, in grey levels."""
    many = studio.ask_all([Question(asked, seed=1000 * k) for k in range(seeds)])
    distances = [
        float(np.sqrt(((a.thumbnail.astype(float) - b.thumbnail) ** 2).mean()))
        for answers in zip(*many, strict=True)
        for a, b in combinations(answers, 2)
    ]
    return {
        "prompts": len(asked),
        "seeds": seeds,
        "rms_distance_mean": round(float(np.mean(distances)), 2),
        "rms_distance_least": round(min(distances), 2),
    }


def _tell(name: str, row: Figures) -> None:
    print(f"{name}: {json.dumps(row)}", flush=True)
