"""The world of the demo model: its objects, colours, grounds, sizes, and the triples held out.

Words and label tables only; pixels are in textures.py and scenes.py, sentences in captions.py.
Invariant: a held-out (object, colour, ground) triple never reaches training; `held_out` decides.
"""

from dataclasses import dataclass
from typing import Final

# The glyph of Noto Color Emoji that gives each object its shape.
OBJECTS: Final = {
    "bicycle": "🚲", "car": "🚗", "bus": "🚌", "train": "🚂", "boat": "⛵", "rocket": "🚀",
    "airplane": "✈", "balloon": "🎈", "house": "🏠", "tree": "🌳", "tulip": "🌷", "cactus": "🌵",
    "mushroom": "🍄", "apple": "🍎", "banana": "🍌", "cat": "🐈", "dog": "🐕", "rabbit": "🐇",
    "elephant": "🐘", "duck": "🦆", "owl": "🦉", "fish": "🐟", "butterfly": "🦋", "turtle": "🐢",
    "snail": "🐌", "robot": "🤖", "ghost": "👻", "star": "⭐", "heart": "❤", "crown": "👑",
    "hat": "🎩", "umbrella": "☂", "cup": "☕", "guitar": "🎸", "bell": "🔔", "key": "🔑",
    "book": "📕", "chair": "🪑", "shirt": "👕", "teapot": "🫖",
}  # fmt: skip

COLORS: Final = {
    "red": (222, 28, 30), "orange": (248, 138, 16), "yellow": (252, 222, 40),
    "green": (36, 158, 58), "blue": (34, 84, 224), "purple": (132, 48, 184),
    "pink": (252, 130, 184), "brown": (122, 72, 34), "black": (36, 36, 42),
    "white": (248, 248, 248),
}  # fmt: skip

# The preposition that stands before "a <ground>" in a caption.
GROUNDS: Final = {
    "cobblestone street": "on", "brick wall": "in front of", "grass field": "on",
    "sandy beach": "on", "snowy field": "on", "wooden floor": "on", "blue ocean": "on",
    "night sky": "in", "cloudy sky": "in", "checkered floor": "on", "sunset sky": "in",
    "polka dot wall": "in front of",
}  # fmt: skip

# Nothing casts a shadow on these.
UPRIGHT: Final = frozenset(
    {"brick wall", "night sky", "cloudy sky", "sunset sky", "polka dot wall"}
)

SIZES: Final = ("small", "", "large")  # "" is the size nobody mentions

# Longest side of a lone object, and of one of two, in pixels of a 128x128 picture. A small one is
# the same cells in either: two things came last, and what lone ones taught was of no use to them.
SIZE_PX: Final = {"small": (46, 46), "": (68, 54), "large": (92, 62)}

OBJECT_NAMES: Final = tuple(OBJECTS)
COLOR_NAMES: Final = tuple(COLORS)
GROUND_NAMES: Final = tuple(GROUNDS)

_ALWAYS_HELD_OUT: Final = frozenset({("bicycle", "red", "cobblestone street")})
_HELD_OUT_ONE_IN: Final = 23


@dataclass(frozen=True, slots=True)
class Thing:
    """One object of a scene."""

    object: str
    color: str
    size: str


@dataclass(frozen=True, slots=True)
class Scene:
    """The content of a picture: one object, or two from left to right, and the ground."""

    things: tuple[Thing, ...]
    ground: str

    @property
    def held_out(self) -> bool:
        return any(held_out(thing.object, thing.color, self.ground) for thing in self.things)


def held_out(object_: str, color: str, ground: str) -> bool:
    if (object_, color, ground) in _ALWAYS_HELD_OUT:
        return True
    index = (
        7 * OBJECT_NAMES.index(object_)
        + 3 * COLOR_NAMES.index(color)
        + 11 * GROUND_NAMES.index(ground)
    )
    return index % _HELD_OUT_ONE_IN == 0
