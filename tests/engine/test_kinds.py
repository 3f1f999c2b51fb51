"""Every kind of request, in floats: the same alone, in any company and in every lane.

Latents of 32 x 32 and more: at 8 x 8 a convolution has one kernel for all, and finds nothing.
"""

from __future__ import annotations

import copy
from functools import cache

import pytest
import torch

from jobs.contract.model_file import Defaults
from jobs.contract.samplers import SAMPLERS
from tests.engine.controls import STEERED
from tests.engine.floats import differing, each_alone, in_lanes_of
from tests.engine.runs import with_text
from tests.engine.test_families import FAMILIES
from tests.engine.test_family_pictures import a_picture, right_half
from tests.engine.tiny import a_request, an_entry
from worker.engine.model import Extras, Model
from worker.engine.profiles import find_profile
from worker.engine.variants import picture_arguments
from worker.messages import Control, ImageRequest

SIDE = 64
KINDS = ("image", "mask", "control", "image control")
CASES = [
    *(("sd", torch.float32, kind) for kind in KINDS),
    ("sd", torch.bfloat16, "image"),
    ("sdxl", torch.float32, "image"),
    ("sd3", torch.float32, "control"),  # what it follows is encoded, too
]
EACH = pytest.mark.parametrize(
    ("name", "dtype", "kind"), CASES, ids=[f"{n}-{str(d)[6:]}-{k}" for n, d, k in CASES]
)


def a_model(name: str, dtype: torch.dtype) -> Model:
    """A tiny model of that family, with a ControlNet."""
    known = STEERED[name]
    pipeline = known.build()
    control = known.control(pipeline)
    pipeline.to(dtype)
    sampler = known.samplers[0]
    return Model(
        an_entry(
            dtype=str(dtype).removeprefix("torch."),
            prediction=SAMPLERS[sampler].predictions[0],
            defaults=Defaults(width=SIDE, height=SIDE, sampler=sampler),
        ),
        pipeline,
        find_profile("auto", type(pipeline).__name__),
        extras=Extras(controls={"edges": control.to(dtype)}),
    )


@cache
def model_of(name: str, dtype: torch.dtype) -> Model:
    """One for all tests here."""
    return a_model(name, dtype)


def asked(name: str, kind: str, number: int) -> ImageRequest:
    """A request of that kind, unlike the others of other numbers in all but its size."""
    samplers, picture = STEERED[name].samplers, a_picture(SIDE, number)
    return a_request(
        width=SIDE,
        height=SIDE,
        seed=number,
        steps=3 + number,
        guidance_scale=2.0 + number,
        sampler=samplers[number % len(samplers)],
        strength=0.7,
        image=picture if "image" in kind or "mask" in kind else None,
        mask=right_half(SIDE) if "mask" in kind else None,
        control=Control(name="edges", picture=picture) if "control" in kind else None,
    )


@EACH
def test_an_image_of_any_kind_has_its_bits_in_any_company(name: str, dtype: torch.dtype, kind: str):
    model = model_of(name, dtype)
    own = [asked(name, kind, i) for i in range(3)]
    texts = [asked(name, "text", i) for i in range(2)]
    companies = [own[:1] + texts[:1], own, own[:2] + texts]
    for request in own + texts:
        with_text(model, request)

    alone = each_alone(model, own + texts)

    assert [differing(model, alone, company) for company in companies] == [[]] * len(companies)


@EACH
def test_an_image_alone_has_its_bits_in_every_lane(name: str, dtype: torch.dtype, kind: str):
    # An engine right out of mixed load may have learned that four rows cost what two do: images
    # alone, too, had other bits then than in a fresh one.
    model, request = model_of(name, dtype), asked(name, kind, 1)
    with_text(model, request)
    own = each_alone(model, [request])[request.id]

    widths = model.verdict_for(request).lanes.widths

    assert [w for w in widths if not torch.equal(in_lanes_of(model, w, request), own)] == []


@pytest.mark.parametrize(("name", "dtype"), [c[:2] for c in CASES if c[2] == "image"])
def test_an_image_alone_has_the_latents_of_the_vendors_pipeline(name: str, dtype: torch.dtype):
    model, request = model_of(name, dtype), asked(name, "image", 1)
    shell = copy.copy(with_text(model, request))
    generator = torch.Generator().manual_seed(request.seed)
    shell.scheduler = model.samplers.take(request.sampler, generator)

    vendors, *_ = shell(
        **model.profile.arguments(request, shell),
        **picture_arguments(request, model.profile, shell),
        generator=generator,
        output_type="latent",
        return_dict=False,
    )

    own = each_alone(model, [request])[request.id]
    assert torch.equal(own, vendors / shell.vae.config.scaling_factor)
    assert own.stride() == vendors.stride()


def test_images_of_unlike_size_do_not_pad_each_other_where_rows_are_lists():
    family = FAMILIES["z-image"]
    model = family.model(lane_width=4)
    small, large = (family.request(i, width=64 + 32 * i, height=64) for i in range(2))
    with_text(model, small)

    alone = each_alone(model, [small, large])

    assert differing(model, alone, [small, large]) == []
