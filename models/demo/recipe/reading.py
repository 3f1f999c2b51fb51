"""Reading: a loss that trains the text encoder to classify captions, before and with denoising.

Without that question the words for things were the last to be told apart: after 84,000 pictures
forty of them were one direction of a ninth of the length that colours had, so every thing was drawn
as the same patch. And asked only beside the noise, of captions of two things it knew the thing on
the left in 35 % after 640,000 pictures, and 1 % of pairs were right. Captions alone cost next to
nothing: 88,000 of them, four minutes on two cores, and it knew both, in 98 to 100 %.
Letters: B rows, L tokens, D text width.
"""

import copy
import random
from collections.abc import Callable
from typing import Final, Protocol

import torch
import torch.nn.functional as functional
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel

from models.demo.recipe import scenes
from models.demo.recipe.captions import caption
from models.demo.recipe.dataset import labels_of
from models.demo.recipe.judge import HEADS, targets

STEPS: Final = 460
PAIRS: Final = 128  # captions of two things in a step
LONE: Final = 64
LEARNING_RATE: Final = 1e-3
COOLDOWN: Final = 0.35
# What lone captions mean to a UNet that has learned from them may hardly move: 4 % of the variance.
ANCHOR_WEIGHT: Final = 3.0


class Reader(nn.Module):
    """A scene classifier on the pooled caption: one linear layer for each of the judge's heads.

    Of two things it is asked which is left and which is right.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({k: nn.Linear(width, n) for k, (n, _) in HEADS.items()})

    def forward(self, pooled: Tensor, labels: Tensor) -> Tensor:
        """Return the mean cross entropy; labels (B, 7), -1 where there is no answer."""
        losses = [
            functional.cross_entropy(
                head(pooled), targets(name, labels), ignore_index=-1, reduction="sum"
            )
            for name, head in self.heads.items()
        ]
        return torch.stack(losses).sum() / len(labels)

    @torch.no_grad()
    def right(self, pooled: Tensor, labels: Tensor) -> dict[str, float]:
        """Return the accuracy of each head that has labels here."""
        shares = {}
        for name, head in self.heads.items():
            truth = targets(name, labels)
            asked = truth >= 0
            if bool(asked.any()):
                said = head(pooled).argmax(1)
                shares[name] = float((said == truth)[asked].float().mean())
        return shares


class Reads(Protocol):
    """The part that learns to read: the part of the denoiser that a caption passes."""

    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel
    reader: Reader

    def tokens(self, captions: list[str]) -> Tensor: ...


def learn_to_read(
    model: Reads,
    rng: random.Random,
    *,
    anchored: bool,
    steps: int = STEPS,
    report: Callable[[str], None] = print,
) -> dict[str, float]:
    """Train on captions only; return the final accuracy on captions never trained on.

    `anchored`: the UNet has learned from this encoder, so lone captions keep their vectors.
    """
    layers = (model.text_encoder, model.unet.add_embedding, model.reader)
    learned = [p for layer in layers for p in layer.parameters()]
    before = _frozen(model) if anchored else None
    optimizer = torch.optim.AdamW(learned, LEARNING_RATE, betas=(0.9, 0.99), weight_decay=0.01)
    for step in range(steps):
        warm, left = (step + 1) / 100, (1 - step / steps) / COOLDOWN
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, warm, left)
        tokens, labels = _captions(model, rng, pairs=PAIRS, lone=LONE)
        text, pooled = _read(model, tokens)
        loss = model.reader(pooled, labels)
        if before is not None:
            was = before(tokens[PAIRS:])
            now = text[PAIRS:], pooled[PAIRS:]
            loss = loss + ANCHOR_WEIGHT * sum(map(_moved, now, was))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        if step % 25 == 0:
            report(f"reading {step} of {steps}: {_shares(model.reader.right(pooled, labels))}")
    tokens, labels = _captions(model, rng, pairs=PAIRS, lone=LONE)
    with torch.no_grad():
        return model.reader.right(_read(model, tokens)[1], labels)


def _read(model: Reads, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Return the caption's vectors (B, L, D), and pooled, as the UNet gets them."""
    text = model.text_encoder(tokens)[0]
    return text, model.unet.add_embedding(text)


def _frozen(model: Reads) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    text_encoder = copy.deepcopy(model.text_encoder)
    pool = copy.deepcopy(model.unet.add_embedding)

    @torch.no_grad()
    def read(tokens: Tensor) -> tuple[Tensor, Tensor]:
        text = text_encoder(tokens)[0]
        return text, pool(text)

    return read


def _moved(now: Tensor, was: Tensor) -> Tensor:
    """Return the change as a share of the variance."""
    return functional.mse_loss(now, was) / was.var()


def _captions(model: Reads, rng: random.Random, *, pairs: int, lone: int) -> tuple[Tensor, Tensor]:
    """Return tokens (B, L) and labels (B, 7) of scenes of the training world, pairs first."""
    counts = [2] * pairs + [1] * lone
    drawn = [scenes.draw_scene(rng, held_out=False, things=count) for count in counts]
    device = next(model.text_encoder.parameters()).device
    tokens = model.tokens([caption(scene, rng) for scene in drawn])
    return tokens.to(device), torch.tensor([labels_of(scene) for scene in drawn]).to(device)


def _shares(right: dict[str, float]) -> str:
    return "  ".join(f"{name} {share:.0%}" for name, share in right.items())
