"""What a request may say of a picture that steers, and how it is told otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jobs.contract.input_images import input_id
from jobs.contract.model_file import (
    Catalogue,
    Defaults,
    Limits,
    ModelEntry,
    NetworkSource,
    load_catalogue,
)
from jobs.contract.parsing import parse_request
from jobs.contract.request_parts import Control
from jobs.contract.resolve import resolve
from jobs.contract.spec import JobSpec
from jobs.errors import InvalidRequest, SettingsError

SQUARE = input_id(128, 128, b"square")
WIDE = input_id(160, 96, b"wide")
ODD = input_id(50, 34, b"odd")
DEFAULTS = Defaults(width=128, height=128)
LIMITS = Limits(side_multiple=32)
EDGES = {"edges": NetworkSource(source="e"), "depth": NetworkSource(source="d")}
CATALOGUE = Catalogue(
    models=(
        ModelEntry(
            id="led", source="x", controls=EDGES, inputs=("image",), limits=LIMITS,
            defaults=DEFAULTS,
        ),
        ModelEntry(id="free", source="x", limits=LIMITS, defaults=DEFAULTS),
    )
)  # fmt: skip


def asked(picture: str = SQUARE, **more: Any) -> dict[str, Any]:
    return {"name": "edges", "image": {"input": picture}} | more


def spec_of(**request: Any) -> JobSpec:
    given = parse_request({"prompt": "a cat"} | request)
    return resolve(given, CATALOGUE, draw_seed=lambda: 7, default_retention_s=3600)


def refusal_of(**request: Any) -> tuple[str, str, str]:
    with pytest.raises(InvalidRequest) as refused:
        spec_of(**request)
    (problem,) = refused.value.problems
    return problem.pointer, problem.code, problem.detail


def test_a_control_stands_in_the_spec_with_all_its_values():
    spec = spec_of(control=asked(scale=0.7, end=0.5))

    assert spec.control == Control(name="edges", image=SQUARE, scale=0.7, start=0.0, end=0.5)
    assert spec.inputs == (SQUARE,)
    assert JobSpec.model_validate_json(spec.model_dump_json()) == spec
    assert spec_of().control is None


def test_the_job_has_the_size_of_what_it_follows():
    assert (spec_of(control=asked(WIDE)).width, spec_of(control=asked(WIDE)).height) == (160, 96)


def test_a_steered_job_may_begin_with_a_picture_of_its_own():
    spec = spec_of(control=asked(), image={"input": SQUARE}, strength=0.5)
    wide = spec_of(control=asked(SQUARE), image={"input": WIDE}, resize="cover")

    assert (spec.image, spec.strength, spec.inputs) == (SQUARE, 0.5, (SQUARE,))
    assert (wide.width, wide.height, wide.inputs) == (160, 96, (WIDE, SQUARE))
    assert refusal_of(control=asked(), image={"input": WIDE})[0] == "/control/image"


def test_steered_jobs_are_of_a_size_class_of_their_own_and_cost_more():
    plain, led = spec_of(), spec_of(control=asked())

    assert led.size_class == "128x128+control:edges"
    assert led.cost == 1.5 * plain.cost


@pytest.mark.parametrize(
    ("request_", "pointer", "code", "said"),
    [
        ({"control": asked(name="edge")}, "/control/name", "unknown_control", "mean 'edges'?"),
        ({"control": asked(), "model": "free"}, "/control", "not_taken", "these do: led"),
        ({"control": asked(WIDE), "size": "128x128"}, "/control/image", "size_differs", "resize"),
        ({"control": asked(ODD)}, "/control/image", "illegal_size", "96x64"),
        ({"control": asked(start=0.5, end=0.5)}, "/control/start", "out_of_range", "below end"),
        ({"control": asked(scale=-1)}, "/control/scale", "greater_than_equal", "0"),
        ({"control": {"name": "edges"}}, "/control/image", "missing", "required"),
        ({"control": asked(weight=1)}, "/control/weight", "unknown_field", "unknown"),
    ],
)
def test_what_cannot_be_is_refused_in_words(
    request_: dict[str, Any], pointer: str, code: str, said: str
):
    told = refusal_of(**request_)

    assert told[:2] == (pointer, code)
    assert said in told[2]


def test_another_size_is_taken_where_the_request_says_how():
    spec = spec_of(control=asked(WIDE), size="128x128", resize="cover")

    assert (spec.width, spec.resize) == (128, "cover")
    assert refusal_of(resize="cover")[:2] == ("/resize", "conflict")


def test_a_controls_name_in_the_model_file_is_a_plain_word(tmp_path: Path):
    models = tmp_path / "models.toml"
    models.write_text(
        '[[model]]\nid = "a"\nsource = "a"\ncontrols."../e" = {source = "e"}\n'
        "[model.defaults]\nwidth = 64\nheight = 64\n"
    )

    with pytest.raises(SettingsError, match="controls"):
        load_catalogue(models)
