"""Each family through its own pipeline class: bits as alone, and as the plain pipeline's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from jobs.contract.model_file import Defaults
from jobs.contract.samplers import SAMPLERS
from tests.engine import families, more_families
from tests.engine.runs import alone, pixels, plain, run
from tests.engine.tiny import SIDE, a_request, an_entry
from worker.engine.model import Model
from worker.engine.profiles import DEFAULT, PROFILES, find_profile
from worker.messages import ImageRequest


@dataclass(frozen=True)
class Family:
    """A tiny pipeline, the profile that it finds, and what it is asked for."""

    profile: str
    build: Callable[[], Any]
    samplers: tuple[str, ...]
    side: int = SIDE
    guidance: float = 3.0  # of the first request; the next ones add 1 where this is above 1

    def model(self, *, lane_width: int | None = None) -> Model:
        """Behind gates; by default in lanes as wide as the plain pipeline's own call."""
        pipeline = self.build()
        profile = find_profile("auto", type(pipeline).__name__)
        assert profile.name == self.profile
        entry = an_entry(
            lane_width=lane_width or profile.fitted_to(pipeline).rows(self.request(0)),
            prediction=SAMPLERS[self.samplers[0]].predictions[0],
            defaults=Defaults(width=SIDE, height=SIDE, sampler=self.samplers[0]),
        )
        return Model(entry, pipeline, profile)

    def request(self, number: int, **more: Any) -> ImageRequest:
        """One of several that differ in everything but their size."""
        known = {
            "sampler": self.samplers[number % len(self.samplers)],
            "width": self.side,
            "height": self.side,
            "seed": number,
            "steps": 3 + number,
            "guidance_scale": self.guidance + number if self.guidance > 1 else self.guidance,
            "prompt": "boat" * number,
        }
        return a_request(**{**known, **more})


DISTILLED = ("lcm", "tcd", "euler_a")

# To add a family: one builder in families.py, one line here.
FAMILIES: dict[str, Family] = {
    "sd2": Family("sd", more_families.sd2, ("ddim", "euler", "dpmpp_2m", "unipc")),
    "sdxl": Family("sdxl", families.sdxl, ("euler", "dpmpp_2m", "heun")),
    "sdxl-turbo": Family("sdxl", more_families.sdxl_turbo, DISTILLED, guidance=0.0),
    "lcm-sdxl": Family("sdxl", more_families.lcm_sdxl, DISTILLED),
    "lcm": Family("lcm", more_families.lcm, ("lcm",)),
    "edm": Family("sdxl", more_families.edm, ("edm_dpmpp_2m", "edm_euler")),
    "sd3": Family("sd3", families.sd3, ("flow_euler", "flow_heun", "flow_dpmpp_2m")),
    "flux": Family("flux", families.flux, ("flow_euler", "flow_lcm", "flow_unipc")),
    "flux2": Family("flux2", more_families.flux2, ("flow_euler", "flow_lcm", "flow_unipc")),
    "flux2-klein": Family("flux2_klein", more_families.flux2_klein, ("flow_euler", "flow_lcm")),
    "pixart": Family("pixart", families.pixart, ("dpmpp_2m", "euler", "ddim")),
    "sana": Family("sana", families.sana, ("flow_euler", "flow_unipc", "flow_deis"), side=32),
    "qwen-image": Family("qwen_image", families.qwen_image, ("flow_euler", "flow_lcm")),
    "z-image": Family("z_image", families.z_image, ("flow_euler", "flow_lcm")),
    "chroma": Family("chroma", families.chroma, ("flow_euler", "flow_lcm", "flow_unipc")),
    "lumina2": Family(
        "lumina2", families.lumina2, ("flow_euler", "flow_lcm", "flow_unipc"), side=32
    ),
    "cogview4": Family("cogview4", families.cogview4, ("flow_euler", "flow_lcm")),
    "aura-flow": Family("aura_flow", families.aura_flow, ("flow_euler",)),
    "ovis-image": Family("ovis_image", more_families.ovis_image, ("flow_euler", "flow_lcm")),
    "prx": Family("prx", more_families.prx, ("flow_euler", "flow_heun", "flow_unipc")),
    "longcat-image": Family(
        "longcat_image", more_families.longcat_image, ("flow_euler", "flow_lcm")
    ),
    "kolors": Family("auto", more_families.kolors, ("euler", "dpmpp_2m", "unipc")),
    "cogview3": Family("auto", more_families.cogview3, ("ddim", "dpmpp_2m", "euler")),
    "unknown": Family("auto", families.unknown, ("euler", "ddim", "euler_a")),
}
EACH = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)


@EACH
def test_a_family_in_company_has_the_bits_of_its_plain_pipeline(family: Family):
    model = family.model()
    requests = [family.request(i) for i in range(len(family.samplers))]

    ends = run(model, [*requests, family.request(0, width=64, steps=5, seed=9)])

    assert [r.sampler for r in requests if pixels(ends[r.id]) != plain(model, r)] == []
    assert {e.reproducibility for e in ends.values()} == {"exact"}
    told = [model.call_for(r).expected_calls for r in requests]
    assert [ends[r.id].calls for r in requests] == told


@EACH
def test_a_family_in_wide_lanes_has_the_same_bits_alone_and_in_company(family: Family):
    model = family.model(lane_width=4)
    requests = [family.request(i, sampler=family.samplers[0], steps=3 + i % 2) for i in range(4)]

    ends = run(model, requests)

    assert [r.id for r in requests if pixels(ends[r.id]) != alone(model, r)] == []
    assert ends[requests[0].id].batch_size_mean > 1


def test_every_profile_of_ours_has_its_line_here():
    tested = {family.profile for family in FAMILIES.values()}

    assert {profile.name for profile in PROFILES} <= tested
    assert DEFAULT.name in tested
