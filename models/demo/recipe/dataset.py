"""Shards of encoded scenes: rendered once, kept as latents in half precision, never in the repo.

A shard is SHARD scenes of one shape of picture, drawn from the shard's number alone, so that a
cache can be thrown away and made again. Labels are rows of int8:
ground, then (object, colour, size) of each thing, -1 where there is no second thing.
"""

import multiprocessing
import os
import random
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Final

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor

from models.demo.recipe import scenes
from models.demo.recipe.network import LATENT_FACTOR
from models.demo.recipe.vae import LinearEncoder
from models.demo.recipe.world import COLOR_NAMES, GROUND_NAMES, OBJECT_NAMES, SIZES, Scene, Thing

SHARD: Final = 2048
# (height, width) by the shard's number: a quarter of the pictures are wide or tall.
SHAPES: Final = ((128, 128), (128, 128), (96, 160), (128, 128), (128, 128), (160, 96)) + (
    (128, 128),
) * 2


@dataclass(frozen=True, slots=True)
class Shard:
    """SHARD scenes of one shape, encoded."""

    latents: Tensor  # (SHARD, C, H/16, W/16) float16
    labels: Tensor  # (SHARD, 7) int8
    cover: Tensor  # (SHARD, H/16, W/16) uint8: how much of a cell is a thing, 255 is all of it

    def scene(self, row: int) -> Scene:
        return scene_of(self.labels[row].tolist())


def labels_of(scene: Scene) -> list[int]:
    row = [GROUND_NAMES.index(scene.ground)]
    for thing in scene.things:
        row += [OBJECT_NAMES.index(thing.object), COLOR_NAMES.index(thing.color)]
        row += [SIZES.index(thing.size)]
    return row + [-1] * (7 - len(row))


def scene_of(row: list[int]) -> Scene:
    parts = [row[1:4]] if row[4] < 0 else [row[1:4], row[4:7]]
    things = tuple(Thing(OBJECT_NAMES[o], COLOR_NAMES[c], SIZES[s]) for o, c, s in parts)
    return Scene(things, GROUND_NAMES[row[0]])


def make_shard(index: int, encoder: LinearEncoder) -> Shard:
    rng = random.Random(f"shard {index}")
    height, width = SHAPES[index % len(SHAPES)]
    labels, latents, covers = [], [], []
    for _ in range(SHARD // 64):
        drawn = [scenes.draw_scene(rng, held_out=False) for _ in range(64)]
        made = [scenes.render_covered(scene, rng, height=height, width=width) for scene in drawn]
        latents.append(encoder(np.stack([picture for picture, _ in made])).half())
        covers.append(np.stack([cover for _, cover in made]))
        labels += [labels_of(scene) for scene in drawn]
    return Shard(
        torch.cat(latents),
        torch.tensor(labels, dtype=torch.int8),
        _cells(torch.from_numpy(np.concatenate(covers))),
    )


def _cells(cover: Tensor) -> Tensor:
    """Return the covered share of each cell: (N, H, W) 0..1 to (N, H/16, W/16) uint8."""
    return (functional.avg_pool2d(cover, LATENT_FACTOR) * 255 + 0.5).byte()


class Cache:
    """The shards of one folder; other processes may be filling it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shards: dict[int, Shard] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def refresh(self) -> int:
        """Load new shards; return the number of shards."""
        for path in sorted(self.folder.glob("*.pt")):
            if int(path.stem) not in self.shards:
                self.shards[int(path.stem)] = Shard(**torch.load(path))
        return len(self.shards)

    def wait(self, shards: int) -> None:
        """Wait until there are that many shards."""
        while self.refresh() < shards:
            Event().wait(1)

    def put(self, index: int, shard: Shard) -> None:
        fresh = self.folder / f"{index}.{os.getpid()}.part"
        parts = {"latents": shard.latents, "labels": shard.labels, "cover": shard.cover}
        torch.save(parts, fresh)
        fresh.rename(self.folder / f"{index}.pt")

    def batch(
        self, rows: int, rng: random.Random, *, pairs: float
    ) -> tuple[Tensor, Tensor, list[Scene]]:
        """Return random rows of one shape: latents (rows, C, h, w), cover (rows, h, w), scenes.

        Cover is 0..1. Of the scenes of two things only the share `pairs` is taken.
        """
        shape = rng.choice(list(self.shards.values())).latents.shape
        pool = [shard for shard in self.shards.values() if shard.latents.shape == shape]
        picks: list[tuple[Shard, int]] = []
        while len(picks) < rows:
            shard, row = rng.choice(pool), rng.randrange(SHARD)
            if shard.labels[row, 4] < 0 or rng.random() < pairs:
                picks.append((shard, row))
        latents = torch.stack([shard.latents[row] for shard, row in picks]).float()
        cover = torch.stack([shard.cover[row] for shard, row in picks]).float() / 255
        return latents, cover, [shard.scene(row) for shard, row in picks]


def fill_in_background(
    folder: Path, encoder: LinearEncoder, *, shards: int, processes: int
) -> list[multiprocessing.process.BaseProcess]:
    """Start child processes that make the missing shards; they die with their parent."""
    context = multiprocessing.get_context("spawn")
    children = [
        context.Process(
            target=_fill, args=(folder, encoder, range(k, shards, processes)), daemon=True
        )
        for k in range(processes)
    ]
    for child in children:
        child.start()
    return list(children)


def _fill(folder: Path, encoder: LinearEncoder, indices: range) -> None:
    torch.set_num_threads(1)
    cache = Cache(folder)
    for index in indices:
        if not (folder / f"{index}.pt").exists():
            cache.put(index, make_shard(index, encoder))
