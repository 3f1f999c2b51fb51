"""Sentences for scenes: several phrasings and synonyms, so that the text encoder meets them all.

Owns every word the model knows (`vocabulary`); knows no pixels.
Invariant: a caption never contradicts its scene; it may leave a colour or the ground unsaid.
"""

import random
import re
from typing import Final

from models.demo.recipe.world import COLORS, GROUNDS, OBJECTS, Scene, Thing

OBJECT_SYNONYMS: Final = {
    "bicycle": ("bike",), "car": ("automobile",), "train": ("locomotive",), "boat": ("sailboat",),
    "airplane": ("plane",), "cat": ("kitten",), "dog": ("puppy",), "rabbit": ("bunny",),
    "cup": ("mug",), "house": ("home",),
    "tulip": ("flower",), "turtle": ("tortoise",), "rocket": ("spaceship",), "tree": ("oak",),
}  # fmt: skip
COLOR_SYNONYMS: Final = {"red": ("crimson",), "purple": ("violet",), "black": ("dark",)}
SIZE_SYNONYMS: Final = {"small": ("little", "tiny"), "large": ("big", "huge"), "": ()}
GROUND_SYNONYMS: Final = {
    "cobblestone street": ("cobbled street",), "brick wall": ("wall of bricks",),
    "grass field": ("meadow", "green lawn"), "sandy beach": ("beach",),
    "snowy field": ("field of snow",),
    "wooden floor": ("wood floor",), "blue ocean": ("sea", "ocean"), "night sky": ("starry sky",),
    "cloudy sky": ("sky with clouds",), "checkered floor": ("chessboard floor",),
    "sunset sky": ("sunset",), "polka dot wall": ("dotted wall",),
}  # fmt: skip
FRAMES: Final = ("a picture of", "a photo of", "an image of", "a drawing of")
SYNONYM_SHARE: Final = 0.2
UNSAID_SHARE: Final = 0.05


def caption(scene: Scene, rng: random.Random) -> str:
    """Return one of the many sentences for this scene."""
    subject = _subject(scene, rng)
    ground = _pick(scene.ground, GROUND_SYNONYMS, rng)
    place = f"{GROUNDS[scene.ground]} {_with_article(ground, rng)}"
    draw = rng.random()
    if draw < UNSAID_SHARE:
        return subject
    if draw < 0.12:
        return f"{_without_article(subject)}, {ground}"
    if draw < 0.18:
        return f"{_with_article(ground, rng)} with {subject}"
    if draw < 0.26 and len(scene.things) == 1:  # two things and a frame would overrun the tokens
        return f"{rng.choice(FRAMES)} {subject} {place}"
    return f"{subject} {place}"


def plain_caption(scene: Scene) -> str:
    """Return the evaluation's sentence for a scene: complete, and without synonyms."""
    things = [_article(_words(thing.size, thing.color, thing.object)) for thing in scene.things]
    return f"{' next to '.join(things)} {GROUNDS[scene.ground]} {_article(scene.ground)}"


def vocabulary() -> tuple[str, ...]:
    """Return every word that a caption can hold, sorted."""
    tables = (OBJECT_SYNONYMS, COLOR_SYNONYMS, SIZE_SYNONYMS, GROUND_SYNONYMS)
    phrases = [*OBJECTS, *COLORS, *GROUNDS, *GROUNDS.values(), *FRAMES, *SIZE_SYNONYMS]
    phrases += [synonym for table in tables for row in table.values() for synonym in row]
    phrases += ["a an the with and , next to beside to the left right of"]
    return tuple(sorted({word for phrase in phrases for word in split(phrase)}))


def split(text: str) -> list[str]:
    """Return the tokenizer's words of a text: lower case, punctuation separate."""
    return re.findall(r"[a-z]+|[^\sa-z]", text.lower())


def _subject(scene: Scene, rng: random.Random) -> str:
    phrases = [_thing(thing, rng) for thing in scene.things]
    if len(phrases) == 1:
        return phrases[0]
    left, right = phrases
    relation, flipped = rng.choice(_RELATIONS)
    return f"{right} {relation} {left}" if flipped else f"{left} {relation} {right}"


# The relation, and whether its first thing stands on the right. One that does not say names them
# as they are read, from the left: where either order was meant, the noisiest steps could only
# learn the mean of the two, a patch of both (1 % of pairs were right after 640,000 pictures).
_RELATIONS: Final = (
    ("next to", False), ("next to", False), ("beside", False), ("and", False), ("and", False),
    ("to the left of", False), ("left of", False), ("to the right of", True), ("right of", True),
)  # fmt: skip


def _thing(thing: Thing, rng: random.Random) -> str:
    color = "" if rng.random() < UNSAID_SHARE else _pick(thing.color, COLOR_SYNONYMS, rng)
    size = _pick(thing.size, SIZE_SYNONYMS, rng)
    return _with_article(_words(size, color, _pick(thing.object, OBJECT_SYNONYMS, rng)), rng)


def _pick(word: str, synonyms: dict[str, tuple[str, ...]], rng: random.Random) -> str:
    others = synonyms.get(word, ())
    return rng.choice(others) if others and rng.random() < SYNONYM_SHARE else word


def _words(*parts: str) -> str:
    return " ".join(part for part in parts if part)


def _article(phrase: str) -> str:
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def _with_article(phrase: str, rng: random.Random) -> str:
    return f"the {phrase}" if rng.random() < 0.1 else _article(phrase)


def _without_article(phrase: str) -> str:
    return phrase.split(" ", 1)[1]
