"""Every field of the engine's request reaches the picture, or is named here as not for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs.contract.loras import LoraFolder
from tests.engine.controls import tiny_control
from tests.engine.loras import write_lora
from tests.engine.runs import alone
from tests.engine.tiny import SIDE, a_request, an_entry, tiny_pipeline
from worker.engine.model import Extras, Model
from worker.engine.profiles import find_profile
from worker.messages import Control, ImageRequest, Lora, Pixels


def picture(seed: int) -> Pixels:
    rows = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    return Pixels(width=SIDE, height=SIDE, data=rows.tobytes())


LEFT_WHITE = Pixels(width=SIDE, height=SIDE, data=(b"\xff" * 24 + b"\0" * 24) * SIDE)
# Of each field: what is said besides it, and another value than it has then.
IN_THE_PICTURE: dict[str, tuple[dict[str, Any], Any]] = {
    "prompt": ({}, "a blue owl"),
    "negative_prompt": ({}, "a brick wall"),
    "width": ({}, 2 * SIDE),
    "height": ({}, 2 * SIDE),
    "steps": ({}, 3),
    "guidance_scale": ({}, 2.0),
    "seed": ({}, 8),
    "sampler": ({}, "euler"),
    "image": ({}, picture(1)),
    "mask": ({"image": picture(1)}, LEFT_WHITE),
    "strength": ({"image": picture(1)}, 0.4),
    "control": ({}, Control(name="edges", picture=picture(2))),
    "loras": ({}, (Lora(name="ink"),)),
}
# Who makes it, for whom, when, and what is shown meanwhile: tests of their own hold these.
NOT_IN_THE_PICTURE = {"id", "model", "exact", "key", "priority", "deadline_s", "preview_every_s"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    folder: Path = tmp_path_factory.mktemp("loras")
    write_lora(folder, "ink", seed=1)
    pipeline = tiny_pipeline()
    profile = find_profile("auto", type(pipeline).__name__)
    extras = Extras(loras=LoraFolder(folder), controls={"edges": tiny_control(pipeline.unet)})
    made = Model(an_entry(lane_width=2, inputs=("image", "mask")), pipeline, profile, extras=extras)
    yield made
    made.close()


def test_each_field_is_held_here():
    assert {field.name for field in fields(ImageRequest)} == set(
        IN_THE_PICTURE
    ) | NOT_IN_THE_PICTURE


@pytest.mark.parametrize("name", IN_THE_PICTURE)
def test_another_value_of_a_field_makes_another_picture(name: str, model: Model):
    besides, value = IN_THE_PICTURE[name]
    request = a_request(**besides)

    assert alone(model, request) != alone(model, replace(request, id="other", **{name: value}))
