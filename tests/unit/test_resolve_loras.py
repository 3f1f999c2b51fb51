"""What a request may say of adapters and steps, and how it is told otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jobs.contract.model_file import Catalogue, Defaults, Limits, ModelEntry
from jobs.contract.parsing import parse_request
from jobs.contract.request_parts import LoraChoice
from jobs.contract.resolve import resolve
from jobs.contract.samplers import SAMPLERS, samplers_for
from jobs.contract.spec import JobSpec
from jobs.errors import InvalidRequest


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    for name in ("ink", "gold-leaf"):
        (tmp_path / "loras").mkdir(exist_ok=True)
        (tmp_path / "loras" / f"{name}.safetensors").write_bytes(name.encode())
    defaults = Defaults(width=128, height=128)
    styled = ModelEntry(id="styled", source="x", loras="loras", defaults=defaults)
    straight = ModelEntry(
        id="straight",
        source="x",
        prediction="flow",
        limits=Limits(max_steps=100),
        defaults=Defaults(width=128, height=128, sampler="flow_euler"),
    )
    return Catalogue(models=(styled, straight), folder=tmp_path)


def spec_of(catalogue: Catalogue, **request: Any) -> JobSpec:
    asked = parse_request({"prompt": "a cat"} | request)
    return resolve(asked, catalogue, draw_seed=lambda: 7, default_retention_s=3600)


def refusal_of(catalogue: Catalogue, **request: Any) -> tuple[str, str, str]:
    with pytest.raises(InvalidRequest) as refused:
        spec_of(catalogue, **request)
    (problem,) = refused.value.problems
    return problem.pointer, problem.code, problem.detail


def test_adapters_of_the_model_stand_in_the_spec_with_their_scales(catalogue: Catalogue):
    spec = spec_of(catalogue, loras=[{"name": "ink", "scale": 0.5}, {"name": "gold-leaf"}])

    assert spec.loras == (LoraChoice(name="ink", scale=0.5), LoraChoice(name="gold-leaf"))
    assert JobSpec.model_validate_json(spec.model_dump_json()) == spec
    assert spec_of(catalogue).loras == ()


def test_jobs_with_other_adapters_are_of_another_size_class(catalogue: Catalogue):
    ink, gold = {"name": "ink"}, {"name": "gold-leaf"}

    assert spec_of(catalogue).size_class == "128x128"
    classes = [spec_of(catalogue, loras=some).size_class for some in ([ink, gold], [gold, ink])]
    assert classes == ["128x128+gold-leaf+ink"] * 2


@pytest.mark.parametrize(
    ("loras", "where", "code", "says"),
    [
        ([{"name": "inc"}], "/loras/0/name", "unknown_lora", "did you mean 'ink'?"),
        ([{"name": "../models"}], "/loras/0/name", "unknown_lora", "of this model: gold-leaf, ink"),
        ([{"name": "ink"}, {"name": "ink"}], "/loras/1/name", "duplicate", "each LoRA once"),
        ([{"name": "ink", "scale": 9}], "/loras/0/scale", "less_than_equal", "4"),
        ([{"name": "ink"}] * 5, "/loras", "too_long", "at most 4"),
    ],
)
def test_what_is_wrong_with_adapters_is_said_with_what_is_legal(
    catalogue: Catalogue, loras: list[dict[str, Any]], where: str, code: str, says: str
):
    pointer, found, detail = refusal_of(catalogue, loras=loras)

    assert (pointer, found) == (where, code)
    assert says in detail


def test_a_model_without_adapters_says_which_has_some(catalogue: Catalogue):
    pointer, code, detail = refusal_of(catalogue, model="straight", loras=[{"name": "ink"}])

    assert (pointer, code) == ("/loras", "not_taken")
    assert detail == "straight takes no LoRA; these do: styled"


@pytest.mark.parametrize("sampler", ["lcm", "tcd"])
def test_a_sampler_that_takes_fewer_steps_than_the_model_says_so(
    catalogue: Catalogue, sampler: str
):
    refused = refusal_of(catalogue, sampler=sampler, steps=51)

    assert refused == ("/steps", "out_of_range", f"from 1 to 50 with {sampler}")
    assert spec_of(catalogue, sampler=sampler, steps=50).steps == 50


def test_the_models_own_limit_is_told_once(catalogue: Catalogue):
    refused = refusal_of(catalogue, model="straight", sampler="flow_unipc", steps=101)

    assert refused == ("/steps", "out_of_range", "from 1 to 100 for this model")
    assert refusal_of(catalogue, model="straight", sampler="flow_unipc", steps=81)[2] == (
        "from 1 to 80 with flow_unipc"
    )


def test_default_steps_beyond_the_default_sampler_are_refused_with_the_file():
    defaults = Defaults(width=128, height=128, sampler="lcm", steps=60)

    with pytest.raises(ValueError, match="at most 50 steps"):
        ModelEntry(id="m", source="x", defaults=defaults)


def test_one_step_is_one_call_whatever_the_sampler():
    assert {SAMPLERS[name].model_calls(1) for name in samplers_for("diffusion")} == {1}
