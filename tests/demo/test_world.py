"""The world of the demo model: what is held out stays out, and sentences say what is shown."""

from __future__ import annotations

import random

import numpy as np
import pytest

from models.demo.recipe.captions import (
    COLOR_SYNONYMS,
    GROUND_SYNONYMS,
    OBJECT_SYNONYMS,
    SIZE_SYNONYMS,
    caption,
    plain_caption,
    split,
)
from models.demo.recipe.dataset import labels_of, scene_of
from models.demo.recipe.scenes import draw_scene, render, render_covered
from models.demo.recipe.textures import CELL, TILE, VARIANTS, ground
from models.demo.recipe.tokenizer import MAX_TOKENS, build_tokenizer
from models.demo.recipe.world import (
    COLOR_NAMES,
    COLORS,
    GROUND_NAMES,
    GROUNDS,
    OBJECT_NAMES,
    OBJECTS,
    Scene,
    Thing,
    held_out,
)

RED_BICYCLE = Scene((Thing("bicycle", "red", ""),), "cobblestone street")
needs_font = pytest.mark.usefixtures("font")


def drawn(count: int) -> list[Scene]:
    rng = random.Random(1)
    return [draw_scene(rng, held_out=False) for _ in range(count)]


def words_for(names: dict, synonyms: dict, text: str) -> set[str]:
    """Which of the names the text says, by itself or by a synonym."""
    padded = f" {text.replace(',', ' ,')} "
    return {n for n in names if any(f" {w} " in padded for w in (n, *synonyms.get(n, ())))}


def test_the_world_is_as_large_as_promised():
    assert len(OBJECTS) >= 40
    assert len(COLORS) >= 10
    assert len(GROUNDS) >= 12


def test_held_out_triples_never_reach_training():
    assert not any(scene.held_out for scene in drawn(5000))
    assert RED_BICYCLE.held_out


def test_about_one_triple_in_23_is_held_out():
    triples = [(o, c, g) for o in OBJECT_NAMES for c in COLOR_NAMES for g in GROUND_NAMES]

    share = sum(held_out(*triple) for triple in triples) / len(triples)

    assert 0.03 < share < 0.06


def test_a_caption_says_nothing_that_is_not_in_the_scene():
    rng = random.Random(2)
    for scene in drawn(1500):
        text = caption(scene, rng)

        things = {thing.object for thing in scene.things}
        # "blue ocean" and "green lawn" hold a colour that is not a thing's
        bare = text.replace("blue ocean", "").replace("green lawn", "")
        assert words_for(OBJECTS, OBJECT_SYNONYMS, text) == things
        assert words_for(COLORS, COLOR_SYNONYMS, bare) <= {thing.color for thing in scene.things}
        assert words_for(GROUNDS, GROUND_SYNONYMS, text) <= {scene.ground}
        assert words_for({"small": 0, "large": 0}, SIZE_SYNONYMS, text) == {
            thing.size for thing in scene.things
        } - {""}


def test_left_and_right_are_told_as_they_are():
    scene = Scene((Thing("cat", "blue", ""), Thing("key", "red", "")), "snowy field")
    rng = random.Random(3)

    said = {caption(scene, rng) for _ in range(400)}

    left = [text for text in said if " left of " in text]
    right = [text for text in said if " right of " in text]
    assert left
    assert all(text.index("key") > max(text.find("cat"), text.find("kitten")) for text in left)
    assert right
    assert all(text.index("key") < max(text.find("cat"), text.find("kitten")) for text in right)


def test_two_things_are_named_from_the_left_where_nothing_is_said():
    scene = Scene((Thing("cat", "blue", ""), Thing("key", "red", "")), "snowy field")
    rng = random.Random(3)

    said = {caption(scene, rng) for _ in range(400)}

    unsaid = [text for text in said if " left of " not in text and " right of " not in text]
    assert unsaid
    assert all(text.index("key") > max(text.find("cat"), text.find("kitten")) for text in unsaid)
    assert plain_caption(scene).index("key") > plain_caption(scene).index("cat")


def test_every_caption_fits_the_tokenizer_word_by_word():
    tokenizer = build_tokenizer()
    rng = random.Random(4)
    texts = [caption(scene, rng) for scene in drawn(1000)]

    rows = tokenizer(texts).input_ids

    assert max(map(len, rows)) <= MAX_TOKENS
    assert tokenizer(["zebra"]).input_ids[0][1:-1] != tokenizer(["cat"]).input_ids[0][1:-1]
    words = {word for text in texts for word in split(text)}
    assert all(len(tokenizer(word).input_ids) == 3 for word in words)


def test_labels_survive_their_numbers():
    for scene in drawn(200):
        assert scene_of(labels_of(scene)) == scene


def test_the_plain_caption_reads_as_a_person_would_write_it():
    assert plain_caption(RED_BICYCLE) == "a red bicycle on a cobblestone street"


@pytest.mark.parametrize("name", [n for n in GROUND_NAMES if not n.endswith("sky")])
def test_a_tile_repeats_without_a_seam(name: str):
    tile = ground(name, 0, TILE, TILE, (0, 0))

    for axis in (0, 1):
        inner = abs(tile.take(range(1, TILE), axis) - tile.take(range(TILE - 1), axis))
        seam = abs(tile.take(0, axis) - tile.take(TILE - 1, axis))
        assert seam.mean() <= 1.05 * inner.mean(axis=(1 - axis, 2)).max()


@needs_font
def test_a_scene_is_the_same_picture_from_the_same_chance():
    one, same, other = (render(RED_BICYCLE, random.Random(seed)) for seed in (7, 7, 8))

    assert (one == same).all()
    assert (one != other).any()
    assert VARIANTS > 1


@needs_font
@pytest.mark.parametrize(("height", "width"), [(128, 128), (96, 160), (160, 96)])
def test_a_scene_fits_any_shape_of_picture(height: int, width: int):
    rng = random.Random(5)
    for scene in drawn(40):
        assert render(scene, rng, height=height, width=width).shape == (height, width, 3)


@needs_font
def test_the_middle_of_a_thing_is_on_the_grid_of_the_latents():
    rng = random.Random(6)
    for thing in (Thing("heart", "red", size) for size in ("small", "", "large")):
        _, cover = render_covered(Scene((thing,), "night sky"), rng)
        rows, columns = (np.flatnonzero(cover.max(axis) > 0.02) for axis in (1, 0))

        middles = (rows[0] + rows[-1] + 1) / 2, (columns[0] + columns[-1] + 1) / 2
        assert all(abs(middle / CELL - round(middle / CELL)) <= 1 / CELL for middle in middles)


@needs_font
def test_what_is_covered_is_what_differs_from_the_ground():
    thing = Thing("star", "red", "large")
    picture, cover = render_covered(Scene((thing,), "snowy field"), random.Random(7))
    bright = picture[..., 1] > 200  # snow is, a red star is not

    assert bright[cover == 0].mean() > 0.9  # the rest is its shadow
    assert bright[cover > 0.9].mean() < 0.1
