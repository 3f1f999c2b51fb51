"""From a request to a spec: silence is filled in, what is illegal is refused with what is legal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.contract.model_file import Catalogue, Defaults, Limits, ModelEntry, load_catalogue
from jobs.contract.parsing import parse_request
from jobs.contract.resolve import nearest_side, resolve
from jobs.contract.spec import MAX_SEED, JobSpec
from jobs.errors import InvalidRequest, SettingsError
from jobs.settings import ROOT

LIMITS = Limits(min_side=64, max_side=256, side_multiple=32, max_pixels=65_536, max_steps=100)
CATALOGUE = Catalogue(
    models=(
        ModelEntry(
            id="small",
            source="small",
            limits=LIMITS,
            defaults=Defaults(width=128, height=128, steps=20, guidance_scale=4.0),
        ),
    )
)


def spec_of(**request: Any) -> JobSpec:
    return resolve(
        parse_request({"prompt": "a cat"} | request),
        CATALOGUE,
        draw_seed=lambda: 7,
        default_retention_s=3600,
    )


def refusal_of(**request: Any) -> tuple[str, str, str]:
    with pytest.raises(InvalidRequest) as refused:
        spec_of(**request)
    (problem,) = refused.value.problems
    return problem.pointer, problem.code, problem.detail


def test_what_is_left_out_comes_from_the_model_and_stands_in_the_spec():
    spec = spec_of()

    assert (spec.width, spec.height, spec.steps, spec.guidance_scale) == (128, 128, 20, 4.0)
    assert (spec.sampler, spec.seeds, spec.retention_s) == ("dpmpp_2m", (7,), 3600)


def test_an_explicit_zero_is_not_a_silence():
    assert spec_of(guidance_scale=0).guidance_scale == 0.0
    assert spec_of(seed=0).seeds == (0,)


def test_image_k_uses_seed_plus_k_or_the_kth_of_a_list():
    assert spec_of(seed=40, n=3).seeds == (40, 41, 42)
    assert spec_of(seed=[9, 1]).seeds == (9, 1)
    assert spec_of(seed=[9, 1], n=2).n == 2


@pytest.mark.parametrize("n", [1, 8])
def test_the_highest_seed_leaves_room_for_every_image(n: int):
    assert spec_of(seed=MAX_SEED - n + 1, n=n).seeds[-1] == MAX_SEED
    assert refusal_of(seed=MAX_SEED, n=2)[:2] == ("/seed", "out_of_range")


@pytest.mark.parametrize(
    ("request_", "pointer", "code", "said"),
    [
        ({"width": 130, "height": 128}, "/width", "illegal_size", "nearest legal: 128x128"),
        ({"size": "512x512"}, "/size", "illegal_size", "nearest legal: 256x256"),
        ({"size": "big"}, "/size", "invalid_size", "WIDTHxHEIGHT"),
        ({"width": 128}, "/height", "missing", "go together"),
        ({"size": "128x128", "aspect_ratio": "1:1"}, "/aspect_ratio", "conflict", "only one"),
        ({"aspect_ratio": "0:1"}, "/aspect_ratio", "invalid_ratio", "W:H"),
        ({"aspect_ratio": "9:1"}, "/aspect_ratio", "illegal_ratio", "nearest legal size"),
        ({"steps": 0}, "/steps", "out_of_range", "from 1 to 100"),
        ({"steps": 10**30}, "/steps", "out_of_range", "from 1 to 100"),
        ({"guidance_scale": -1}, "/guidance_scale", "out_of_range", "from 0 to 30"),
        ({"n": 9}, "/n", "out_of_range", "from 1 to 8"),
        ({"seed": [1, 2], "n": 3}, "/seed", "wrong_length", "3"),
        ({"sampler": "eulr"}, "/sampler", "unknown_sampler", "did you mean 'euler'?"),
        ({"model": "smal"}, "/model", "unknown_model", "did you mean 'small'?"),
        ({"prompt": "   "}, "/prompt", "empty", "describe"),
        ({"prompt": "a" * 2001}, "/prompt", "too_long", "2000"),
        ({"metadata": {"a": "b" * 1024}}, "/metadata", "too_large", "1024"),
        ({"output": {"format": "png", "quality": 3}}, "/output/quality", "conflict", "lossless"),
    ],
)
def test_what_is_illegal_is_refused_with_what_is_legal(
    request_: dict[str, Any], pointer: str, code: str, said: str
):
    told = refusal_of(**request_)

    assert told[:2] == (pointer, code)
    assert said in told[2]


def test_every_problem_is_told_at_once():
    with pytest.raises(InvalidRequest) as refused:
        spec_of(steps=0, sampler="none", width=1, height=1)

    assert {p.pointer for p in refused.value.problems} == {"/steps", "/sampler", "/width"}


@settings(max_examples=100, deadline=None, derandomize=True)
@given(w=st.integers(1, 40), h=st.integers(1, 40))
def test_an_aspect_ratio_gives_a_legal_size_of_about_that_shape_or_a_refusal(w: int, h: int):
    try:
        spec = spec_of(aspect_ratio=f"{w}:{h}")
    except InvalidRequest:
        return

    assert nearest_side(spec.width, LIMITS) == spec.width
    assert nearest_side(spec.height, LIMITS) == spec.height
    assert spec.width * spec.height <= LIMITS.max_pixels
    assert 0.8 <= spec.width / spec.height / (w / h) <= 1.25


@given(side=st.integers(-10, 10_000))
def test_the_nearest_legal_side_is_legal_and_none_is_nearer(side: int):
    near = nearest_side(side, LIMITS)

    legal = range(64, 257, 32)
    assert near in legal
    assert abs(near - side) == min(abs(other - side) for other in legal)


def test_the_shipped_model_file_is_sound():
    catalogue = load_catalogue(ROOT / "models" / "models.toml")

    assert catalogue.default.id == "demo"
    assert catalogue.path_of(catalogue.default) is not None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[model]]\nid='a'\nsource='x'", "defaults"),
        ("[[model]]\nid='A B'\nsource='x'\n[model.defaults]\nwidth=128\nheight=128", "id"),
        ("[[model]]\nid='a'\nsource='x'\n[model.defaults]\nwidth=130\nheight=128", "default side"),
        ("", "at least 1"),
        ("[[model", "model file"),
    ],
)
def test_a_broken_model_file_is_refused_with_the_reason(tmp_path: Path, text: str, said: str):
    path = tmp_path / "models.toml"
    path.write_text(text)

    with pytest.raises(SettingsError, match=said):
        load_catalogue(path)
