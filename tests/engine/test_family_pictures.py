"""Each family that can begin with a picture: bits as its own pipeline's, calls as counted."""

from __future__ import annotations

import copy
from dataclasses import replace
from random import Random

import pytest
import torch

from jobs.contract.model_file import Catalogue
from jobs.contract.samplers import SAMPLERS, samplers_for
from tests.engine import families
from tests.engine.runs import alone, pixels, run, with_text
from tests.engine.test_families import FAMILIES, Family
from tests.engine.tiny import SIDE, a_model, a_request, an_entry, tiny_pipeline, tiny_unet, tiny_vae
from worker.engine.errors import ModelBroken
from worker.engine.image_call import to_pixels
from worker.engine.model import Model
from worker.engine.model_pool import load_model
from worker.engine.profiles import PROFILES
from worker.engine.samplers import RECIPES
from worker.engine.variants import picture_arguments
from worker.messages import EngineConfig, ImageRequest, Pixels

# SD3's repainting asks for the 16 channels that the real one has
WIDE = {"sd3": replace(FAMILIES["sd3"], build=lambda: families.sd3(channels=16))}
BY_PROFILE = {family.profile: {**FAMILIES, **WIDE}[name] for name, family in FAMILIES.items()}
KINDS = [
    (profile.name, kind)
    for profile in PROFILES
    for kind in ("image", "mask")
    if (profile.image_to_image if kind == "image" else profile.inpaint)
]


def a_picture(side: int, seed: int = 1) -> Pixels:
    return Pixels(width=side, height=side, data=Random(seed).randbytes(side * side * 3))


def right_half(side: int) -> Pixels:
    row = b"\x00" * (side // 2 * 3) + b"\xff" * ((side - side // 2) * 3)
    return Pixels(width=side, height=side, data=row * side)


def asked(family: Family, number: int, kind: str, **more: object) -> ImageRequest:
    """The family's request of that number, beginning with a picture."""
    able = [s for s in family.samplers if SAMPLERS[s].from_image]
    known = {
        "sampler": able[number % len(able)],
        "steps": 7,
        "strength": 0.55,
        "image": a_picture(family.side),
        "mask": right_half(family.side) if kind == "mask" else None,
    }
    return family.request(number, **{**known, **more})


def plain_variant(model: Model, family: Family, request: ImageRequest) -> bytes:
    """The same by the family's own pipeline class, called from outside: no gate takes notice."""
    shell = copy.copy(with_text(model, request))
    generator = torch.Generator().manual_seed(request.seed)
    shell.scheduler = model.samplers.take(request.sampler, generator)
    recipe = RECIPES[request.sampler].call
    made = shell(
        **model.profile.arguments(request, shell),
        **picture_arguments(request, model.profile, shell),
        **{name: value for name, value in recipe.items() if model.profile.takes(shell, name)},
        generator=generator,
        output_type="np",
        return_dict=False,
    )
    return to_pixels(made[0][0]).data


@pytest.mark.parametrize(("name", "kind"), KINDS, ids=[" ".join(k) for k in KINDS])
def test_a_picture_to_begin_with_changes_no_bit_of_its_own_pipeline_or_a_neighbour(
    name: str, kind: str
):
    family = BY_PROFILE[name]
    model = family.model()
    requests = [asked(family, k, kind) for k in range(min(2, len(family.samplers)))]
    neighbour = family.request(0)
    with_text(model, requests[0])

    ends = run(model, [neighbour, *requests])

    differ = [r.sampler for r in requests if pixels(ends[r.id]) != plain_variant(model, family, r)]
    assert differ == []
    assert pixels(ends[neighbour.id]) == alone(model, neighbour)
    told = [model.call_for(r).expected_calls for r in requests]
    assert [ends[r.id].calls for r in requests] == told


def test_pictures_and_prompts_share_lanes_and_keep_their_bits():
    family = FAMILIES["sdxl"]
    model = family.model(lane_width=4)
    kinds = ("image", "mask")
    requests = [asked(family, k, kind, sampler="euler") for k, kind in enumerate(kinds)]
    mixed = [*requests, *(family.request(k, sampler="euler") for k in range(2))]
    for request in requests:
        with_text(model, request)

    apart = [alone(model, r) for r in mixed]  # each kind is tested by then: all start at once

    ends = run(model, mixed)

    assert [pixels(ends[r.id]) for r in mixed] == apart
    assert max(ends[r.id].batch_size_mean for r in requests) > 1


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")  # diffusers' DPM2
@pytest.mark.filterwarnings("ignore:Should have t[ab]:UserWarning")  # torchsde's rounding
@pytest.mark.parametrize("sampler", samplers_for("diffusion"))
def test_every_sampler_counts_the_steps_it_takes(model: Model, sampler: str):
    image = a_picture(SIDE)
    requests = [
        a_request(sampler=sampler, image=image, steps=8, strength=0.55),
        a_request(sampler=sampler, image=image, steps=7, strength=0.3, mask=right_half(SIDE)),
    ]

    ends = run(model, requests)

    expected = [model.call_for(r).expected_calls for r in requests]
    assert [ends[r.id].calls for r in requests] == expected


def test_a_network_of_other_channels_is_repainted_too():
    """The demo model has 24; the pipeline's own check knows 4 and 9."""
    pipeline = tiny_pipeline()
    pipeline.register_modules(unet=tiny_unet(8), vae=tiny_vae(latent_channels=8))
    model = a_model(pipeline)
    request = a_request(image=a_picture(SIDE), mask=right_half(SIDE), strength=1.0)

    ends = run(model, [a_request(seed=3), request])

    assert pixels(ends[request.id]) == alone(model, request)
    assert pipeline.unet.config.in_channels == 8


def test_a_model_file_that_promises_what_the_family_lacks_is_refused(tmp_path):
    tiny_pipeline().save_pretrained(tmp_path / "tiny")
    entry = an_entry(inputs=("image", "mask"), family="pixart")
    config = EngineConfig(catalogue=Catalogue(models=(entry,), folder=tmp_path), self_test=False)

    with pytest.raises(ModelBroken, match="'pixart' begins with no image"):
        load_model(entry, config)
