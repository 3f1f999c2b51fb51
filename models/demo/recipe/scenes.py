"""Pictures of scenes: tinted emoji glyphs with a soft shadow over a ground.

Owns the glyphs and the layout; the only importer of the emoji font. 1 ms a scene.
A picture is uint8 (H, W, 3). Every chance comes from the `random.Random` that is passed in.
"""

import math
import random
from functools import cache, lru_cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from models.demo.recipe import textures
from models.demo.recipe.world import (
    COLOR_NAMES,
    COLORS,
    GROUND_NAMES,
    OBJECT_NAMES,
    OBJECTS,
    SIZE_PX,
    SIZES,
    UPRIGHT,
    Scene,
    Thing,
)

FONT: Final = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
NATIVE_PX: Final = 128
GLYPH_PX: Final = 112
TINT: Final = 0.92  # the rest is the glyph's own colours: a cat keeps its dark eyes
PAIR_SHARE: Final = 0.25

Pixels = NDArray[np.uint8]


def draw_scene(rng: random.Random, *, held_out: bool, things: int | None = None) -> Scene:
    """A random scene from the training world, or only from the triples held out of it."""
    while True:
        count = things or (2 if rng.random() < PAIR_SHARE else 1)
        names = rng.sample(OBJECT_NAMES, count)
        picked = tuple(Thing(name, rng.choice(COLOR_NAMES), rng.choice(SIZES)) for name in names)
        scene = Scene(picked, rng.choice(GROUND_NAMES))
        if scene.held_out == held_out:
            return scene


def render(
    scene: Scene, rng: random.Random, *, height: int = NATIVE_PX, width: int = NATIVE_PX
) -> Pixels:
    """The scene as a picture: two calls differ in place, size, side, never in what is shown."""
    shift = (rng.randrange(12), rng.randrange(12))
    variant = rng.randrange(textures.VARIANTS)
    canvas = textures.ground(scene.ground, variant, height, width, shift).copy()
    if rng.random() < 0.5:
        canvas = canvas[:, ::-1].copy()
    for thing, centre in zip(scene.things, _centres(scene, width, rng), strict=True):
        _place(canvas, thing, centre, scene, rng)
    return (np.clip(canvas, 0, 1) * 255 + 0.5).astype(np.uint8)


def _centres(scene: Scene, width: int, rng: random.Random) -> list[float]:
    if len(scene.things) == 1:
        return [width * (0.5 + _jitter(rng, 0.05))]
    return [width * (place + _jitter(rng, 0.015)) for place in (0.26, 0.74)]


def _jitter(rng: random.Random, scale: float) -> float:
    return rng.uniform(-1, 1) * 2 * scale


def _place(
    canvas: textures.Picture, thing: Thing, centre: float, scene: Scene, rng: random.Random
) -> None:
    height, width = canvas.shape[:2]
    glyph = _scaled(thing, _side(thing, scene, height, width, rng), flip=rng.random() < 0.5)
    h, w = glyph.shape[:2]
    y = round(np.clip(height * (0.51 + _jitter(rng, 0.04)) - h / 2, 2, height - h - 4))
    x = round(np.clip(centre - w / 2, 2, width - w - 2))
    if scene.ground not in UPRIGHT:
        _shadow(canvas, y + h - 2, x + w / 2, w)
    alpha = glyph[..., 3:]
    spot = canvas[y : y + h, x : x + w]
    spot[:] = spot * (1 - alpha) + glyph[..., :3] * alpha


def _side(thing: Thing, scene: Scene, height: int, width: int, rng: random.Random) -> float:
    """Longest side in pixels: as large a part of any shape of picture, if it fits."""
    pair = len(scene.things) == 2
    scale = math.sqrt(height * width) / NATIVE_PX
    fits = min(0.86 * height, width * (0.5 if pair else 0.86))
    return min(SIZE_PX[thing.size][pair] * scale * rng.uniform(0.96, 1.04), fits)


def _shadow(canvas: textures.Picture, y: float, x: float, width: int) -> None:
    depth = max(3.0, width * 0.08)
    top, bottom = int(max(0, y - 2 * depth)), int(y + 2 * depth)
    spot = canvas[top:bottom]
    rows, columns = np.ogrid[top : top + len(spot), : canvas.shape[1]]
    distance = ((columns - x) / (width * 0.5)) ** 2 + ((rows - y) / depth) ** 2
    spot *= (1 - 0.34 * np.clip(1.3 - distance, 0, 1)[..., None]).astype(np.float32)


@lru_cache(maxsize=4096)
def _scaled_px(object_: str, color: str, side: int) -> textures.Picture:
    glyph = _tinted(object_, color)
    factor = side / max(glyph.shape[:2])
    size = (max(1, round(glyph.shape[1] * factor)), max(1, round(glyph.shape[0] * factor)))
    image = Image.fromarray((glyph * 255).astype(np.uint8), "RGBA").resize(size, Image.LANCZOS)
    return np.asarray(image).astype(np.float32) / 255


def _scaled(thing: Thing, side: float, *, flip: bool) -> textures.Picture:
    glyph = _scaled_px(thing.object, thing.color, round(side))
    return glyph[:, ::-1] if flip else glyph


@cache
def _tinted(object_: str, color: str) -> textures.Picture:
    """The glyph in shades of a colour: its light and dark around that colour's own."""
    glyph = _glyph(object_)
    alpha, own = glyph[..., 3:], glyph[..., :3]
    light = own @ np.array((0.3, 0.59, 0.11), np.float32)[:, None]
    mean = (light * alpha).sum() / alpha.sum()
    shade = np.clip((light - mean) * 0.9 + 0.8, 0.2, 1.12)
    tint = np.clip(shade * np.array(COLORS[color], np.float32) / 255, 0, 1)
    if color == "black":  # shades of black alone would be a silhouette: keep its highlights
        tint = np.clip(tint + 0.25 * np.clip(light - mean, 0, 1), 0, 1)
    return np.concatenate([TINT * tint + (1 - TINT) * own, alpha], axis=-1)


@cache
def _glyph(object_: str) -> textures.Picture:
    font = ImageFont.truetype(str(FONT), 109)  # the one size its bitmaps have
    image = Image.new("RGBA", (170, 170), (0, 0, 0, 0))
    ImageDraw.Draw(image).text((12, 10), OBJECTS[object_], font=font, embedded_color=True)
    image = image.crop(image.getbbox())
    image.thumbnail((GLYPH_PX, GLYPH_PX), Image.LANCZOS)
    return np.asarray(image).astype(np.float32) / 255
