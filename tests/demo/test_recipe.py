"""The parts of the recipe that could be wrong without anyone seeing it in a picture."""

from __future__ import annotations

import json

import torch
from torch import nn

from models.demo.recipe.card import EVALUATION, WEIGHTS, committed_card
from models.demo.recipe.denoiser import weights
from models.demo.recipe.lanes import Lanes


def test_the_card_says_what_was_measured():
    assert (WEIGHTS / "README.md").read_text() == committed_card()


def test_enough_prompts_were_asked():
    figures = json.loads(EVALUATION.read_text())

    assert figures["held_out"]["prompts"] >= 300
    assert {row["steps"] for row in figures["steps"]} == {2, 4, 8, 15, 25, 50}


def test_lanes_give_the_gradient_of_one_model():
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    chunks = list(torch.randn(4, 5, 4))
    sum((model(chunk) ** 2).mean() for chunk in chunks).div(4).backward()
    expected = model.weight.grad.clone()

    Lanes(model, lambda net, chunk: (net(chunk) ** 2).mean(), count=3).step(chunks)

    assert torch.allclose(model.weight.grad, expected, atol=1e-6)


def test_lanes_share_their_weights():
    model = nn.Linear(4, 3)
    lanes = Lanes(model, lambda net, chunk: net(chunk).mean(), count=2)

    with torch.no_grad():
        model.weight.fill_(7)

    assert all((replica.weight == 7).all() for replica in lanes.replicas)


def test_a_small_thing_is_worth_as_much_as_a_large_one():
    cover = torch.zeros(3, 8, 8)
    cover[0, 3:6, 3:5] = 1  # 6 cells
    cover[1, 2:6, 2:6] = 1  # 16 cells
    cover[2, 3:6, 0:2] = cover[2, 3:6, 5:7] = 1  # two things of 6 cells
    labels = torch.tensor([[0, 1, 1, 0, -1, -1, -1]] * 2 + [[0, 1, 1, 0, 2, 2, 0]])
    worth = (weights(cover, labels, 2.0) - 1).sum((1, 2, 3))
    assert torch.allclose(worth, worth[0] * torch.tensor([1.0, 1.0, 2.0]))
    assert bool((weights(cover, labels, 0.0) == 1).all())
