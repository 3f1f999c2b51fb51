"""Each family through its own pipeline class: bits as alone, and as the plain pipeline's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from jobs.catalogue import Defaults, ModelEntry
from jobs.samplers import SAMPLERS
from tests.engine import families
from tests.engine.runs import alone, pixels, plain, run
from tests.engine.tiny import SIDE, a_request, an_entry
from worker.engine.model import Model
from worker.engine.profiles import DEFAULT, PROFILES, find_profile
from worker.messages import ImageRequest

# To add a family: one builder in families.py, one line here.
FAMILIES: list[tuple[str, Callable[[], Any], dict[str, Any]]] = [
    ("sdxl", families.sdxl, {"samplers": ("euler", "dpmpp_2m", "heun")}),
    ("sd3", families.sd3, {"samplers": ("flow_euler", "flow_heun", "flow_dpmpp_2m")}),
    ("flux", families.flux, {"samplers": ("flow_euler", "flow_lcm", "flow_unipc")}),
    ("pixart", families.pixart, {"samplers": ("dpmpp_2m", "euler", "ddim")}),
    ("sana", families.sana, {"samplers": ("flow_euler", "flow_unipc", "flow_deis"), "side": 32}),
    ("qwen_image", families.qwen_image, {"samplers": ("flow_euler", "flow_lcm", "flow_unipc")}),
    ("z_image", families.z_image, {"samplers": ("flow_euler", "flow_lcm")}),
    ("chroma", families.chroma, {"samplers": ("flow_euler", "flow_lcm", "flow_unipc")}),
    ("lumina2", families.lumina2, {"samplers": ("flow_euler", "flow_lcm", "flow_unipc")}),
    ("cogview4", families.cogview4, {"samplers": ("flow_euler", "flow_lcm")}),
    ("aura_flow", families.aura_flow, {"samplers": ("flow_euler",)}),
    ("auto", families.unknown, {"samplers": ("euler", "ddim", "euler_a")}),
]


def of(family: dict[str, Any], **more: Any) -> ImageRequest:
    side = family.get("side", SIDE)
    return a_request(**{"width": side, "height": side, **more})


def entry_for(family: dict[str, Any], lane_width: int) -> ModelEntry:
    first: str = family["samplers"][0]
    return an_entry(
        lane_width=lane_width,
        prediction=SAMPLERS[first].predictions[0],
        defaults=Defaults(width=SIDE, height=SIDE, sampler=first),
    )


@pytest.mark.parametrize(("name", "build", "family"), FAMILIES, ids=[f[0] for f in FAMILIES])
def test_a_family_in_company_has_the_bits_of_its_plain_pipeline(
    name: str, build: Callable[[], Any], family: dict[str, Any]
):
    pipeline = build()
    profile = find_profile("auto", type(pipeline).__name__)
    assert profile.name == name
    rows = 2 if profile.guided == "row" else 1
    model = Model(entry_for(family, rows), pipeline, profile)
    requests = [
        of(family, sampler=sampler, seed=i, steps=3 + i, guidance_scale=3.0 + i, prompt="boat" * i)
        for i, sampler in enumerate(family["samplers"])
    ]

    ends = run(model, [*requests, of(family, sampler=family["samplers"][0], width=64, seed=9)])

    assert [r.sampler for r in requests if pixels(ends[r.id]) != plain(model, r)] == []
    assert {e.reproducibility for e in ends.values()} == {"exact"}
    told = [model.call_for(r).expected_calls for r in requests]
    assert [ends[r.id].calls for r in requests] == told


@pytest.mark.parametrize(("name", "build", "family"), FAMILIES, ids=[f[0] for f in FAMILIES])
def test_a_family_in_wide_lanes_has_the_same_bits_alone_and_in_company(
    name: str, build: Callable[[], Any], family: dict[str, Any]
):
    pipeline = build()
    profile = find_profile("auto", type(pipeline).__name__)
    model = Model(entry_for(family, 4), pipeline, profile)
    requests = [
        of(family, sampler=family["samplers"][0], seed=i, steps=3 + i % 2, prompt="boat" * i)
        for i in range(4)
    ]

    ends = run(model, requests)

    assert [r.id for r in requests if pixels(ends[r.id]) != alone(model, r)] == []
    assert ends[requests[0].id].batch_size_mean > 1


def test_every_profile_of_ours_has_its_line_here():
    tested = {name for name, _, _ in FAMILIES}

    assert {p.name for p in PROFILES} - tested <= {"sd", "flux2_klein"}
    assert DEFAULT.name in tested
