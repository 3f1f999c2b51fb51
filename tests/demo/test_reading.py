"""Learning to read: captions alone, and what a trained UNet knows by them stays where it was."""

from __future__ import annotations

import random

import torch

from models.demo.recipe.dataset import labels_of
from models.demo.recipe.denoiser import Denoiser
from models.demo.recipe.reading import Reader, learn_to_read
from models.demo.recipe.world import Scene, Thing

LONE = Scene((Thing("cat", "blue", ""),), "snowy field")
PAIR = Scene((Thing("cat", "blue", ""), Thing("key", "red", "")), "snowy field")
STEPS = 4


def vectors(model: Denoiser) -> torch.Tensor:
    with torch.no_grad():
        return model.text_encoder(model.tokens(["a blue cat on a snowy field"]))[0]


def moved(*, anchored: bool) -> float:
    """How far a lone caption's vectors go in a few steps."""
    torch.manual_seed(0)
    model = Denoiser()
    before = vectors(model)
    learn_to_read(model, random.Random(1), anchored=anchored, steps=STEPS)
    return float((vectors(model) - before).square().mean())


def test_reading_is_learned_and_the_rest_of_the_unet_left_alone():
    torch.manual_seed(0)
    model = Denoiser()
    unet = {name: p.clone() for name, p in model.unet.named_parameters()}

    right = learn_to_read(model, random.Random(1), anchored=False, steps=STEPS)

    assert set(right) == set(model.reader.heads)
    changed = {name for name, p in model.unet.named_parameters() if not p.equal(unet[name])}
    assert changed
    assert all(name.startswith("add_embedding.") for name in changed)


def test_an_anchor_holds_what_lone_captions_mean():
    assert moved(anchored=True) < 0.5 * moved(anchored=False)


def test_only_questions_that_have_an_answer_are_counted():
    reader = Reader(8)
    labels = torch.tensor([labels_of(LONE), labels_of(PAIR)])

    right = reader.right(torch.zeros(2, 8), labels)
    lone = reader.right(torch.zeros(1, 8), labels[:1])

    assert set(right) == set(reader.heads)
    assert set(lone) == {"ground", "object", "color", "size"}


def test_a_sure_answer_is_right():
    reader = Reader(8)
    labels = torch.tensor([labels_of(PAIR)])
    with torch.no_grad():
        reader.heads["left_object"].bias[labels[0, 1]] = 9.0
        reader.heads["right_object"].bias[labels[0, 1]] = 9.0

    right = reader.right(torch.zeros(1, 8), labels)

    assert right["left_object"] == 1.0
    assert right["right_object"] == 0.0
