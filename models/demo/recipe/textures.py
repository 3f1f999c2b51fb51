"""Grounds: seamless tiles and skies, drawn by arithmetic from a seed.

A tile is TILE x TILE, repeats without a seam, and its pattern sits on a 16-pixel grid: one cell of
the latent grid. So a ground is few different cells, which a small model can learn.
Letters: H, W pixels; a picture is float32 (H, W, 3) in 0..1.
"""

from collections.abc import Callable
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.demo.recipe.world import GROUND_NAMES

Picture = NDArray[np.float32]
TILE: Final = 192  # a multiple of every pattern's period, and wider than any picture trained on
VARIANTS: Final = 12
CELL: Final = 16
SKIES: Final = frozenset({"night sky", "cloudy sky", "sunset sky"})


def ground(name: str, variant: int, height: int, width: int, shift: tuple[int, int]) -> Picture:
    """Return the ground `name`, cut out of its tile `shift` cells down and to the right."""
    if name in SKIES:  # a sky has an up and a down: it only moves sideways
        return np.roll(_sky(name, variant, height), shift[1] * CELL, axis=1)[:, :width]
    tile = np.roll(_tile(name, variant), (shift[0] * CELL, shift[1] * CELL), axis=(0, 1))
    return tile[:height, :width]


@cache
def _tile(name: str, variant: int) -> Picture:
    return _TILES[name](_rng(name, variant)).astype(np.float32)


@cache
def _sky(name: str, variant: int, height: int) -> Picture:
    y = np.linspace(0, 1, height, dtype=np.float32)[:, None].repeat(TILE, 1)
    return _SKIES[name](_rng(name, variant), y).astype(np.float32)


def _rng(name: str, variant: int) -> np.random.Generator:
    return np.random.default_rng((GROUND_NAMES.index(name), variant))


def _grid(height: int = TILE) -> tuple[Picture, Picture]:
    y, x = np.mgrid[0:height, 0:TILE].astype(np.float32)
    return y + 0.5, x + 0.5


def _noise(
    rng: np.random.Generator, wavelength: float, height: int = TILE, stretch: float = 1.0
) -> Picture:
    """Return smooth noise of mean 0 and deviation 1 that repeats without a seam."""
    fy = np.fft.fftfreq(height)[:, None] * wavelength
    fx = np.fft.rfftfreq(TILE)[None] * wavelength * stretch
    spectrum = np.fft.rfft2(rng.standard_normal((height, TILE))) * np.exp(-4 * (fy**2 + fx**2))
    field = np.fft.irfft2(spectrum, s=(height, TILE))
    return ((field - field.mean()) / field.std()).astype(np.float32)


def _mix(low: tuple[int, int, int], high: tuple[int, int, int], share: Picture) -> Picture:
    share = np.clip(share, 0, 1)[..., None]
    return (np.array(low) * (1 - share) + np.array(high) * share) / 255


def _bricks(
    rng: np.random.Generator, height: int, width: int, roundness: float
) -> tuple[Picture, Picture]:
    """Return a staggered wall: each brick's shade (0..1), and each pixel's share of brick."""
    y, x = _grid()
    row = (y // height).astype(int)
    x = (x + (row % 2) * (width // 2)) % TILE
    column = (x // width).astype(int)
    shade = rng.random((TILE // height, TILE // width))[row, column]
    u = np.abs((y % height) / height * 2 - 1)
    v = np.abs((x % width) / width * 2 - 1)
    # Distance from the joint, in pixels of the shorter side; the edge is 2 pixels soft.
    inside = (1 - (u**roundness + v**roundness) ** (1 / roundness)) * height / 2
    return shade.astype(np.float32), np.clip(inside - 0.2, 0, 2) / 2


def _cobblestones(rng: np.random.Generator) -> Picture:
    shade, inside = _bricks(rng, 32, 32, 4)
    return _mix((74, 72, 76), (128, 126, 130), inside) + (inside * (shade - 0.4) * 0.18)[..., None]


def _brick_wall(rng: np.random.Generator) -> Picture:
    shade, inside = _bricks(rng, 16, 32, 16)
    return _mix((206, 190, 178), (164, 72, 54), inside) + (inside * (shade - 0.5) * 0.12)[..., None]


def _grass(rng: np.random.Generator) -> Picture:
    return _mix((76, 148, 54), (122, 186, 78), 0.5 + 0.16 * _noise(rng, 10) + 0.2 * _noise(rng, 40))


def _sand(rng: np.random.Generator) -> Picture:
    y, _ = _grid()
    ripple = np.sin(2 * np.pi * (y / 16 + 0.22 * _noise(rng, 60)))
    return _mix((226, 200, 146), (246, 228, 180), 0.5 + 0.3 * ripple + 0.08 * _noise(rng, 12))


def _snow(rng: np.random.Generator) -> Picture:
    return _mix((218, 228, 242), (252, 253, 255), 0.6 + 0.3 * _noise(rng, 48))


def _planks(rng: np.random.Generator) -> Picture:
    y, x = _grid()
    row = (y // 32).astype(int)
    shade = rng.random(TILE // 32)[row]
    grain = np.sin(2 * np.pi * (y / 16 + 0.25 * _noise(rng, 50, stretch=2)))
    joint = np.clip(1.6 - np.abs(y % 32 - 16 + 16 * np.sign(16 - y % 32)), 0, 1)
    end = (x + 64 * (row % 3)) % TILE
    joint = np.maximum(joint, np.clip(1.6 - np.abs(end - 32), 0, 1))
    board = _mix((152, 102, 58), (192, 140, 88), 0.15 + 0.6 * shade + 0.15 * grain)
    return board * (1 - 0.4 * joint[..., None])


def _ocean(rng: np.random.Generator) -> Picture:
    y, _ = _grid()
    wave = 0.5 + 0.5 * np.sin(2 * np.pi * (y / 16 + 0.35 * _noise(rng, 44)))
    return _mix((28, 98, 176), (104, 182, 230), wave**2 * 0.8 + 0.06 * _noise(rng, 60))


def _checkered(rng: np.random.Generator) -> Picture:
    y, x = _grid()
    side = np.clip(np.sin(np.pi * x / 32) * np.sin(np.pi * y / 32) * 12, -1, 1)
    return _mix((58, 60, 70), (232, 232, 228), 0.5 + 0.5 * side) * rng.uniform(0.92, 1.04)


def _polka_dots(rng: np.random.Generator) -> Picture:
    y, x = _grid()
    x = x + 16 * ((y // 32) % 2)
    radius = np.hypot(x % 32 - 16, y % 32 - 16)
    dots = _mix((112, 196, 190), (250, 246, 232), np.clip((9 - radius) / 2, 0, 1))
    return dots * rng.uniform(0.94, 1.02)


def _night(rng: np.random.Generator, y: Picture) -> Picture:
    sky = _mix((10, 12, 42), (44, 40, 104), y)
    rows, columns = _grid(len(y))
    for _ in range(14):
        row, column = rng.uniform(0, len(y)), rng.uniform(0, TILE)
        across = np.abs(columns - column)
        across = np.minimum(across, TILE - across)
        glow = np.exp(-((rows - row) ** 2 + across**2) / rng.uniform(2, 5))
        sky = sky + glow[..., None] * np.array((0.95, 0.95, 0.8))
    return np.clip(sky, 0, 1)


def _clouds(rng: np.random.Generator, y: Picture) -> Picture:
    cloud = np.clip(0.2 + 0.5 * _noise(rng, 40, len(y), 0.7) + 0.1 * _noise(rng, 16, len(y)), 0, 1)
    cloud = cloud[..., None]
    return _mix((84, 156, 234), (182, 218, 250), y) * (1 - cloud) + 0.98 * cloud


def _sunset(rng: np.random.Generator, y: Picture) -> Picture:
    sky = np.where(
        y[..., None] < 0.5,
        _mix((96, 62, 140), (236, 112, 108), y * 2),
        _mix((236, 112, 108), (254, 206, 112), y * 2 - 1),
    )
    band = np.clip(0.3 * _noise(rng, 30, len(y), 3) - 0.1, 0, 0.35)[..., None]
    return sky * (1 - band) + np.array((1.0, 0.84, 0.74)) * band


_TILES: Final[dict[str, Callable[[np.random.Generator], Picture]]] = {
    "cobblestone street": _cobblestones, "brick wall": _brick_wall, "grass field": _grass,
    "sandy beach": _sand, "snowy field": _snow, "wooden floor": _planks, "blue ocean": _ocean,
    "checkered floor": _checkered, "polka dot wall": _polka_dots,
}  # fmt: skip
_SKIES: Final[dict[str, Callable[[np.random.Generator, Picture], Picture]]] = {
    "night sky": _night, "cloudy sky": _clouds, "sunset sky": _sunset,
}  # fmt: skip
