"""Pictures of scenes: tinted emoji glyphs with a soft shadow over a ground.

Owns the glyphs and the layout; the only importer of the emoji font. 1 ms a scene.
A picture is uint8 (H, W, 3). Every chance comes from the `random.Random` that is passed in.

Things stand on the grid of the latents, as the grounds do (textures.py): a lone one in the middle
or a cell beside it, always facing as its glyph does, and a size is one number of pixels. What a
thing is gets decided in the noisiest steps, where the model can only learn the mean of all places
and sides that a caption allows: with free placement that mean is a patch, and stayed one for long.
"""

import hashlib
import random
from functools import cache, lru_cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from models.demo.recipe import textures, world
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
PAIR_SHARE: Final = 0.45

Pixels = NDArray[np.uint8]


def version() -> str:
    """Return a digest of the code that renders pictures, to detect a cache of another version."""
    sources = (Path(__file__), Path(textures.__file__), Path(world.__file__))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:12]


def draw_scene(rng: random.Random, *, held_out: bool, things: int | None = None) -> Scene:
    """Return a random scene from the training world, or only from the held-out triples."""
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
    """Render the scene as a picture: calls differ in place and ground, never in objects."""
    return render_covered(scene, rng, height=height, width=width)[0]


def render_covered(
    scene: Scene, rng: random.Random, *, height: int = NATIVE_PX, width: int = NATIVE_PX
) -> tuple[Pixels, textures.Picture]:
    """Render the picture and each pixel's coverage by objects: float32 (H, W), 0..1."""
    shift = (rng.randrange(12), rng.randrange(12))
    variant = rng.randrange(textures.VARIANTS)
    canvas = textures.ground(scene.ground, variant, height, width, shift).copy()
    if rng.random() < 0.5:
        canvas = canvas[:, ::-1].copy()
    cover = np.zeros((height, width), np.float32)
    for k, thing in enumerate(scene.things):
        glyph = _scaled_px(thing.object, thing.color, _side(thing, scene, height, width))
        corner = _corner(glyph, k, len(scene.things), height, width, rng)
        if scene.ground not in UPRIGHT:
            _shadow(canvas, corner, glyph)
        _paste(canvas, cover, corner, glyph)
    return (np.clip(canvas, 0, 1) * 255 + 0.5).astype(np.uint8), cover


def _side(thing: Thing, scene: Scene, height: int, width: int) -> int:
    """Return the longest side in pixels, smaller in a very flat or narrow picture."""
    pair = len(scene.things) == 2
    fits = min(0.86 * height, width * (0.5 if pair else 0.86))
    return int(min(SIZE_PX[thing.size][pair], fits))


def _corner(
    glyph: textures.Picture, k: int, things: int, height: int, width: int, rng: random.Random
) -> tuple[int, int]:
    """Return row and column of the k-th object: about the middle, or the middle of its half."""
    h, w = glyph.shape[:2]
    middle = width * (2 * k + 1) // (2 * things)
    reach = textures.CELL if things == 1 else 0
    columns = [x - w // 2 for x in range(middle - reach, middle + reach + 1, textures.CELL)]
    fitting = [x for x in columns if 0 <= x <= width - w]
    return height // 2 - h // 2, rng.choice(fitting)


def _paste(
    canvas: textures.Picture,
    cover: textures.Picture,
    corner: tuple[int, int],
    glyph: textures.Picture,
) -> None:
    (y, x), (h, w) = corner, glyph.shape[:2]
    alpha = glyph[..., 3:]
    spot, covered = canvas[y : y + h, x : x + w], cover[y : y + h, x : x + w]
    spot[:] = spot * (1 - alpha) + glyph[..., :3] * alpha
    np.maximum(covered, alpha[..., 0], out=covered)


def _shadow(canvas: textures.Picture, corner: tuple[int, int], glyph: textures.Picture) -> None:
    width = glyph.shape[1]
    y, x = corner[0] + glyph.shape[0] - 2, corner[1] + width / 2
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


@cache
def _tinted(object_: str, color: str) -> textures.Picture:
    """Tint a glyph in shades of a colour: its light and dark around the colour."""
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
