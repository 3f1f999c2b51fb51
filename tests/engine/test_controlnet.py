"""A control picture steers one image of a batch, and no bit of the others."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.controlnet.pipeline_controlnet import StableDiffusionControlNetPipeline
from diffusers.pipelines.controlnet.pipeline_controlnet_img2img import (
    StableDiffusionControlNetImg2ImgPipeline,
)
from diffusers.pipelines.controlnet.pipeline_controlnet_inpaint import (
    StableDiffusionControlNetInpaintPipeline,
)
from diffusers.pipelines.controlnet.pipeline_controlnet_inpaint_sd_xl import (
    StableDiffusionXLControlNetInpaintPipeline,
)
from diffusers.pipelines.controlnet.pipeline_controlnet_sd_xl import (
    StableDiffusionXLControlNetPipeline,
)
from diffusers.pipelines.controlnet.pipeline_controlnet_sd_xl_img2img import (
    StableDiffusionXLControlNetImg2ImgPipeline,
)
from PIL import Image

from jobs.catalogue import Catalogue, Part
from tests.engine.controls import tiny_control
from tests.engine.more_families import whole_sdxl
from tests.engine.runs import alone, pixels, run
from tests.engine.tiny import SIDE, a_request, an_entry, tiny_pipeline
from worker.engine.call import to_pixels
from worker.engine.errors import ModelBroken
from worker.engine.model import Extras, Model
from worker.engine.profiles import find_profile
from worker.engine.residency import load_model
from worker.messages import Control, EngineConfig, Failed, Finished, ImageRequest, Pixels

KINDS: dict[str, tuple[Callable[[], Any], Any]] = {
    "sd": (tiny_pipeline, StableDiffusionControlNetPipeline),
    "sdxl": (whole_sdxl, StableDiffusionXLControlNetPipeline),
}
KIN: dict[Any, tuple[Any, Any]] = {
    StableDiffusionControlNetPipeline: (
        StableDiffusionControlNetImg2ImgPipeline,
        StableDiffusionControlNetInpaintPipeline,
    ),
    StableDiffusionXLControlNetPipeline: (
        StableDiffusionXLControlNetImg2ImgPipeline,
        StableDiffusionXLControlNetInpaintPipeline,
    ),
}
SAMPLERS = ("ddim", "euler_a", "dpmpp_2m")


def a_picture(seed: int) -> Pixels:
    data = np.random.default_rng(seed).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8).tobytes()
    return Pixels(width=SIDE, height=SIDE, data=data)


@pytest.fixture(scope="module", params=list(KINDS))
def steered(request: pytest.FixtureRequest) -> Iterator[tuple[Model, Any]]:
    """A model with the ControlNet "edges", and the vendor's own pipeline for it."""
    build, cls = KINDS[request.param]
    pipeline = build()
    control = tiny_control(pipeline.unet)
    profile = find_profile("auto", type(pipeline).__name__)
    extras = Extras(controls={"edges": control})
    made = Model(an_entry(lane_width=2), pipeline, profile, extras=extras)
    known = set(cls.__init__.__code__.co_varnames)
    parts = {k: v for k, v in pipeline.components.items() if k in known}
    more = {"requires_safety_checker": False} if request.param == "sd" else {}
    vendor = cls(**parts, **more, controlnet=control)
    vendor.set_progress_bar_config(disable=True)
    yield made, vendor
    made.close()


def a_mask() -> Pixels:
    """White in its left half."""
    rows = np.zeros((SIDE, SIDE, 3), np.uint8)
    rows[:, : SIDE // 2] = 255
    return Pixels(width=SIDE, height=SIDE, data=rows.tobytes())


def by_vendor(model: Model, vendor: Any, request: ImageRequest, **given: Any) -> bytes:
    """`given`: the pictures besides, by the vendor's names; then the control has another name."""
    assert request.control
    pipeline = copy.copy(vendor)
    generator = torch.Generator().manual_seed(request.seed)
    pipeline.scheduler = model.samplers.take(request.sampler, generator)
    name = "control_image" if given else "image"
    made = pipeline(
        **model.profile.arguments(request, pipeline),
        **given,
        **{name: opened(request.control.picture)},
        controlnet_conditioning_scale=request.control.scale,
        control_guidance_start=request.control.start,
        control_guidance_end=request.control.end,
        generator=generator,
        output_type="np",
    )
    return to_pixels(made.images[0]).data


def opened(picture: Pixels) -> Image.Image:
    return Image.frombytes("RGB", (SIDE, SIDE), picture.data)


def asked(number: int, **more: Any) -> ImageRequest:
    control = Control(name="edges", picture=a_picture(number), scale=1.0)
    known = {"sampler": SAMPLERS[number % 3], "seed": number, "steps": 3 + number}
    return a_request(**{"control": control, **known, **more})


def test_steered_images_in_company_have_the_bits_of_the_vendors_pipeline(steered):
    model, vendor = steered
    requests = [asked(i) for i in range(3)]
    weaker = asked(4, control=Control(name="edges", picture=a_picture(4), scale=0.5))
    early = asked(5, control=Control(name="edges", picture=a_picture(5), start=0.2, end=0.6))
    unsteered = [a_request(seed=20 + i) for i in range(2)]

    ends = run(model, [*requests, weaker, early, *unsteered])

    for request in (*requests, weaker, early):
        assert pixels(ends[request.id]) == by_vendor(model, vendor, request)
    for request in unsteered:
        assert pixels(ends[request.id]) == alone(model, request)
    first = ends[requests[0].id]
    assert isinstance(first, Finished)
    assert " control=edges@" in first.fingerprint
    assert first.calls == model.call_for(requests[0]).expected_calls
    assert " control=" not in ends[unsteered[0].id].fingerprint


@pytest.mark.parametrize("masked", [False, True], ids=["image", "mask"])
def test_a_steered_image_may_begin_with_a_picture(steered, masked: bool):
    model, vendor = steered
    image, mask = a_picture(50), a_mask()
    more = {"image": image, "strength": 0.7, "mask": mask if masked else None}
    requests = [asked(i, steps=6 + i, **more) for i in range(2)]

    ends = run(model, [*requests, asked(2), a_request(seed=9)])

    given = {"image": opened(image), "strength": 0.7}
    if masked:
        given["mask_image"] = opened(mask).convert("L")
    kin = kin_of(vendor, masked=masked)
    for request in requests:
        assert pixels(ends[request.id]) == by_vendor(model, kin, request, **given)
        end = ends[request.id]
        assert isinstance(end, Finished)
        assert end.calls == model.call_for(request).expected_calls


def kin_of(vendor: Any, *, masked: bool) -> Any:
    """The vendor's pipeline of the same parts that begins with a picture."""
    cls = KIN[type(vendor)][masked]
    more = {} if hasattr(vendor, "text_encoder_2") else {"requires_safety_checker": False}
    made = cls(**vendor.components, **more)
    made.set_progress_bar_config(disable=True)
    return made


def test_the_control_picture_is_heeded(steered):
    model, _ = steered
    request = asked(1)
    other = replace(request, id="other", control=asked(2).control)

    ends = run(model, [request, other])

    assert pixels(ends[request.id]) != pixels(ends["other"])


def test_a_control_that_the_model_has_not_is_refused_in_words(steered):
    model, _ = steered
    request = asked(0, control=Control(name="depth", picture=a_picture(0)))

    end = run(model, [request, a_request()])[request.id]

    assert isinstance(end, Failed)
    assert end.code == "unservable"
    assert "it has: edges" in end.message


def test_a_model_file_names_its_controls(tmp_path):
    pipeline = tiny_pipeline()
    pipeline.save_pretrained(tmp_path / "tiny")
    tiny_control(pipeline.unet).save_pretrained(tmp_path / "edges")
    entry = an_entry(controls={"edges": Part(source="edges")}, lane_width=2)
    config = EngineConfig(catalogue=Catalogue(models=(entry,), folder=tmp_path), device="cpu")

    model = load_model(entry, config)

    end = run(model, [asked(1)])
    assert all(isinstance(e, Finished) for e in end.values())
    model.close()


def test_it_is_heeded_in_its_share_of_the_steps_only(steered):
    model, _ = steered
    whole, half = asked(1), asked(1, control=Control(name="edges", picture=a_picture(1), end=0.5))
    unheeded = asked(1, control=Control(name="edges", picture=a_picture(1), scale=0.0))

    ends = [pixels(alone_end) for alone_end in (run(model, [r])[r.id] for r in (whole, half))]
    without = pixels(run(model, [unheeded])[unheeded.id])

    assert len({*ends, without}) == 3


def test_a_family_without_one_says_so_when_it_is_loaded(tmp_path):
    tiny_pipeline().save_pretrained(tmp_path / "tiny")
    entry = an_entry(controls={"edges": Part(source="edges")}, family="lcm")
    config = EngineConfig(catalogue=Catalogue(models=(entry,), folder=tmp_path), device="cpu")

    with pytest.raises(ModelBroken, match="takes no ControlNet"):
        load_model(entry, config)


def test_steered_images_share_their_model_calls():
    pipeline = tiny_pipeline()
    extras = Extras(controls={"edges": tiny_control(pipeline.unet)})
    profile = find_profile("auto", type(pipeline).__name__)
    model = Model(an_entry(lane_width=4), pipeline, profile, extras=extras)
    requests = [asked(i, steps=4) for i in range(2)]

    ends = run(model, requests)

    assert [pixels(ends[r.id]) for r in requests] == [alone(model, r) for r in requests]
    assert all(isinstance(e, Finished) and e.batch_size_mean > 1 for e in ends.values())
