"""A control picture steers one image of a batch, and no bit of the others."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from jobs.contract.model_file import Catalogue, Defaults, NetworkSource
from jobs.contract.samplers import SAMPLERS
from tests.engine.controls import STEERED, Steered, tiny_control
from tests.engine.runs import alone, pixels, run, with_text
from tests.engine.tiny import SIDE, a_request, an_entry, tiny_pipeline
from worker.engine.errors import ModelBroken
from worker.engine.image_call import to_pixels
from worker.engine.model import Extras, Model
from worker.engine.model_pool import load_model
from worker.engine.profiles import PROFILES, find_profile
from worker.messages import Control, EngineConfig, Failed, Finished, ImageRequest, Pixels


def a_picture(seed: int) -> Pixels:
    data = np.random.default_rng(seed).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8).tobytes()
    return Pixels(width=SIDE, height=SIDE, data=data)


@dataclass(frozen=True)
class Family:
    """A model with the ControlNet "edges", and the vendor's own pipelines for it."""

    model: Model
    known: Steered
    vendors: dict[str, Any]  # by what they begin with: text, image, mask

    def asked(self, number: int, **more: Any) -> ImageRequest:
        """A steered request of that number."""
        samplers = self.known.samplers
        return asked(number, **{"sampler": samplers[number % len(samplers)], **more})

    def unsteered(self, **more: Any) -> ImageRequest:
        return a_request(**{"sampler": self.known.samplers[0], **more})


@pytest.fixture(scope="module", params=list(STEERED))
def steered(request: pytest.FixtureRequest) -> Iterator[Family]:
    known = STEERED[request.param]
    pipeline = known.build()
    control = known.control(pipeline)
    profile = find_profile("auto", type(pipeline).__name__)
    assert profile.name == request.param
    first = known.samplers[0]
    entry = an_entry(
        lane_width=profile.fitted_to(pipeline).rows(a_request()),
        prediction=SAMPLERS[first].predictions[0],
        defaults=Defaults(width=SIDE, height=SIDE, sampler=first),
    )
    model = Model(entry, pipeline, profile, extras=Extras(controls={"edges": control}))
    classes = {"text": known.text, "image": known.image, "mask": known.mask}
    vendors = {kind: known.vendor(pipeline, control, c) for kind, c in classes.items() if c}
    yield Family(model, known, vendors)
    model.close()


def where(cls: Any) -> str | None:
    """As a profile says it."""
    return cls and f"{cls.__module__.removeprefix('diffusers.pipelines.')}:{cls.__name__}"


def test_every_family_with_a_controlnet_is_tested_here_with_all_that_it_takes():
    promised = {
        profile.name: [profile.control, profile.control_image_to_image, profile.control_inpaint]
        for profile in PROFILES
        if profile.control
    }

    tested = {
        name: [where(cls) for cls in (known.text, known.image, known.mask)]
        for name, known in STEERED.items()
    }
    assert tested == promised


def a_mask() -> Pixels:
    """White in its left half."""
    rows = np.zeros((SIDE, SIDE, 3), np.uint8)
    rows[:, : SIDE // 2] = 255
    return Pixels(width=SIDE, height=SIDE, data=rows.tobytes())


def by_vendor(family: Family, request: ImageRequest) -> bytes:
    """The same picture by the vendor's own pipeline, called from outside."""
    assert request.control
    kind = "mask" if request.mask else "image" if request.image else "text"
    pipeline, model = copy.copy(family.vendors[kind]), family.model
    generator = torch.Generator().manual_seed(request.seed)
    pipeline.scheduler = model.samplers.take(request.sampler, generator)
    given: dict[str, Any] = {}
    if request.image:
        given = {"image": opened(request.image), "strength": request.strength}
    if request.mask:
        given["mask_image"] = opened(request.mask).convert("L")
    # Where there is no other picture, the older pipelines call the control plainly `image`.
    plainly = kind == "text" and not model.profile.takes(pipeline, "control_image")
    torch.manual_seed(request.seed)  # SD3's draws from the global generator, too
    made = pipeline(
        **model.profile.arguments(request, pipeline),
        **given,
        **{"image" if plainly else "control_image": opened(request.control.picture)},
        controlnet_conditioning_scale=request.control.scale,
        control_guidance_start=request.control.start,
        control_guidance_end=request.control.end,
        generator=generator,
        output_type="np",
    )
    return to_pixels(made.images[0]).data


def opened(picture: Pixels) -> Image.Image:
    return Image.frombytes("RGB", (SIDE, SIDE), picture.data)


def heard(family: Family, request: ImageRequest) -> ImageRequest:
    """The same; the pipeline that serves it knows what the prompt becomes."""
    with_text(family.model, request)
    return request


def asked(number: int, **more: Any) -> ImageRequest:
    control = Control(name="edges", picture=a_picture(number), scale=1.0)
    known = {"seed": number, "steps": 3 + number, "prompt": "boat" * number}
    return a_request(**{"control": control, **known, **more})


def test_steered_images_in_company_have_the_bits_of_the_vendors_pipeline(steered: Family):
    model = steered.model
    requests = [heard(steered, steered.asked(i)) for i in range(3)]
    weaker = steered.asked(4, control=Control(name="edges", picture=a_picture(4), scale=0.5))
    part = Control(name="edges", picture=a_picture(5), start=0.2, end=0.6)
    early = steered.asked(5, control=part)
    unsteered = [steered.unsteered(seed=20 + i) for i in range(2)]

    ends = run(model, [*requests, weaker, early, *unsteered])

    for request in (*requests, weaker, early):
        assert pixels(ends[request.id]) == by_vendor(steered, request)
    for request in unsteered:
        assert pixels(ends[request.id]) == alone(model, request)
    first = ends[requests[0].id]
    assert isinstance(first, Finished)
    assert " control=edges@" in first.fingerprint
    assert first.calls == model.call_for(requests[0]).expected_calls
    assert " control=" not in ends[unsteered[0].id].fingerprint


@pytest.mark.parametrize("kind", ["image", "mask"])
def test_a_steered_image_may_begin_with_a_picture(steered: Family, kind: str):
    model = steered.model
    mask = a_mask() if kind == "mask" else None
    more = {"image": a_picture(50), "strength": 0.7, "mask": mask}
    requests = [steered.asked(i, steps=6 + i, **more) for i in range(2)]
    if kind not in steered.vendors:
        end = run(model, requests[:1])[requests[0].id]
        assert isinstance(end, Failed)
        assert "with a ControlNet" in end.message
        return
    requests = [heard(steered, request) for request in requests]

    ends = run(model, [*requests, heard(steered, steered.asked(2)), steered.unsteered(seed=9)])

    for request in requests:
        assert pixels(ends[request.id]) == by_vendor(steered, request)
        end = ends[request.id]
        assert isinstance(end, Finished)
        assert end.calls == model.call_for(request).expected_calls


def test_the_control_picture_is_heeded(steered: Family):
    request = heard(steered, steered.asked(1))
    other = replace(request, id="other", control=asked(2).control)

    ends = run(steered.model, [request, other])

    assert pixels(ends[request.id]) != pixels(ends["other"])


def test_a_control_that_the_model_has_not_is_refused_in_words(steered: Family):
    request = steered.asked(0, control=Control(name="depth", picture=a_picture(0)))

    end = run(steered.model, [request, steered.unsteered()])[request.id]

    assert isinstance(end, Failed)
    assert end.code == "unservable"
    assert "it has: edges" in end.message


def test_a_model_file_names_its_controls(tmp_path):
    pipeline = tiny_pipeline()
    pipeline.save_pretrained(tmp_path / "tiny")
    tiny_control(pipeline.unet).save_pretrained(tmp_path / "edges")
    entry = an_entry(controls={"edges": NetworkSource(source="edges")}, lane_width=2)
    config = EngineConfig(catalogue=Catalogue(models=(entry,), folder=tmp_path), device="cpu")

    model = load_model(entry, config)

    end = run(model, [asked(1)])
    assert all(isinstance(e, Finished) for e in end.values())
    model.close()


def test_it_is_heeded_in_its_share_of_the_steps_only(steered: Family):
    whole = heard(steered, steered.asked(1))
    half = steered.asked(1, control=Control(name="edges", picture=a_picture(1), end=0.5))
    unheeded = steered.asked(1, control=Control(name="edges", picture=a_picture(1), scale=0.0))

    made = [alone(steered.model, request) for request in (whole, half, unheeded)]

    assert len(set(made)) == 3


def test_a_family_without_one_says_so_when_it_is_loaded(tmp_path):
    tiny_pipeline().save_pretrained(tmp_path / "tiny")
    entry = an_entry(controls={"edges": NetworkSource(source="edges")}, family="lcm")
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
