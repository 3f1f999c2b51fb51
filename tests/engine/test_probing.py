"""Every kind of request is tested by calls of its own, and what was not is not called exact."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.engine.controls import tiny_control
from tests.engine.runs import run
from tests.engine.test_family_pictures import a_picture, right_half
from tests.engine.test_packing import RowWise, a_call
from tests.engine.tiny import SIDE, a_request, an_entry, tiny_pipeline
from worker.engine.exactness import Promises
from worker.engine.model import Extras, Model
from worker.engine.profiles import find_profile
from worker.engine.selftest import UNTESTED
from worker.engine.signatures import Packed
from worker.messages import Control, Finished, ImageRequest

SIZE = f"{SIDE}x{SIDE}"
PICTURE = a_picture(SIDE)
KINDS = {
    "text": {},
    "image": {"image": PICTURE},
    "mask": {"image": PICTURE, "mask": right_half(SIDE)},
    "control": {"control": Control(name="edges", picture=PICTURE)},
    "image control": {"image": PICTURE, "control": Control(name="edges", picture=PICTURE)},
}


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    pipeline = tiny_pipeline()
    extras = Extras(controls={"edges": tiny_control(pipeline.unet)})
    entry = an_entry(lane_width=2, inputs=("image", "mask"))
    made = Model(entry, pipeline, find_profile("sd", "StableDiffusionPipeline"), extras=extras)
    yield made
    made.close()


def probed(model: Model, kind: str) -> list[Packed]:
    return model._probe(SIDE, SIDE, a_request(**KINDS[kind]))


def patterns(calls: list[Packed]) -> set[str]:
    return {call.form.pattern for call in calls}


def test_a_kind_brings_the_forms_of_its_own_calls(model: Model):
    forms = {kind: patterns(probed(model, kind)) for kind in KINDS}

    assert len(forms["text"]) == len(forms["image"]) == 1
    assert forms["mask"] == forms["text"] != forms["image"]
    assert len(forms["control"]) == len(forms["image control"]) == 2  # two networks
    assert not forms["control"] & forms["image control"]
    assert probed(model, "image control")[-1].gate.owner is model.pipeline.unet


def test_forms_that_kinds_have_in_common_are_tested_once(model: Model):
    for kind in KINDS:
        model.verdict_for(a_request(**KINDS[kind]))

    assert len(model.promises._tested) == 2 + 4  # text and mask, image; two networks, twice


@pytest.mark.parametrize("kind", KINDS)
def test_a_call_of_a_form_that_was_not_tested_is_not_told_as_exact(model: Model, kind: str):
    request: ImageRequest = a_request(**KINDS[kind])
    found = dict(model.promises._verdicts)
    foreseen = run(model, [request])[request.id]
    assert isinstance(foreseen, Finished)

    for size, verdict in model.promises._verdicts.items():
        model.promises._verdicts[size] = replace(verdict, patterns=frozenset({"another"}))
    unforeseen = run(model, [request])[request.id]
    model.promises._verdicts.clear()
    model.promises._verdicts.update(found)

    assert isinstance(unforeseen, Finished)
    assert (foreseen.reproducibility, unforeseen.reproducibility) == ("exact", "tolerance")
    assert foreseen.pixels == unforeseen.pixels


def test_a_model_promises_what_holds_for_all_that_a_request_may_begin_with(model: Model):
    assert model.report().reproducibility == "exact"
    known = model.promises._verdicts[f"{SIZE} image"]

    model.promises._verdicts[f"{SIZE} image"] = UNTESTED

    assert model.report().reproducibility == "unpacked"
    model.promises._verdicts[f"{SIZE} image"] = known


def test_tested_forms_are_remembered_on_disk(tmp_path: Path):
    call = a_call(RowWise(), 2, 7.0)
    found = Promises("one", lambda *_: [call], state_dir=tmp_path).at(64, 64)

    again = Promises("one", lambda *_: [], state_dir=tmp_path).at(64, 64)

    assert again.patterns == found.patterns == {call.form.pattern}
