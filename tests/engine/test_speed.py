"""Options for speed: each in the fingerprint, exact in company, or refused in words."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pydantic import ValidationError
from torch._dynamo.utils import counters

from jobs.contract.model_file import Catalogue, Speed
from tests.engine.runs import alone, pixels, run
from tests.engine.tiny import SIDE, a_request, an_entry, tiny_pipeline
from worker.engine.accelerations import apply
from worker.engine.errors import ModelBroken
from worker.engine.lane_widths import LaneRule
from worker.engine.model import Model
from worker.engine.model_pool import load_model
from worker.engine.profiles.sd import STABLE_DIFFUSION
from worker.engine.selftest import Verdict
from worker.messages import EngineConfig, Finished


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("models")
    tiny_pipeline().save_pretrained(made / "tiny", safe_serialization=True)
    return made


def loaded(folder: Path, **speed: object) -> Model:
    entry = an_entry(lane_width=4, speed=Speed.model_validate(speed))
    config = EngineConfig(catalogue=Catalogue(models=(entry,), folder=folder), device="cpu")
    return load_model(entry, config)


@pytest.mark.parametrize(
    ("speed", "word"),
    [
        ({"channels_last": True}, "speed=channels_last"),
        ({"attention": "native"}, "speed=attention:native"),
        ({"vae_tiling": True, "vae_slicing": True}, "speed=vae_tiling+vae_slicing"),
    ],
)
def test_an_option_is_in_the_fingerprint_and_images_in_company_keep_their_bits(
    folder: Path, speed: dict[str, object], word: str
):
    model = loaded(folder, **speed)
    requests = [a_request(seed=i, steps=3) for i in range(3)]

    ends = run(model, requests)

    assert [pixels(ends[r.id]) for r in requests] == [alone(model, r) for r in requests]
    end = ends[requests[0].id]
    assert isinstance(end, Finished)
    assert f" {word} " in f"{end.fingerprint} "
    model.close()


def test_options_do_what_they_say(folder: Path):
    model = loaded(folder, channels_last=True, vae_tiling=True, vae_slicing=True)

    weight = model.pipeline.unet.conv_in.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert (model.pipeline.vae.use_tiling, model.pipeline.vae.use_slicing) == (True, True)
    assert "speed=" not in loaded(folder).fingerprint


def test_regional_compilation_is_asked_for_block_by_block(folder: Path):
    model = loaded(folder, compile="regional")

    blocks = [m for m in model.pipeline.unet.modules() if m._compiled_call_impl is not None]
    assert {type(block).__name__ for block in blocks} == {"BasicTransformerBlock"}
    assert " speed=compile:regional" in model.fingerprint


class Block(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x) + 1


class OneBlock(torch.nn.Module):
    """A network with one repeated block, compiled by torch but for the generating of code."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Block()

    def compile_repeated_blocks(self, **options: bool) -> None:
        self.block.compile(backend="eager", **options)


def test_every_width_and_size_is_compiled_for_itself_and_none_is_left_out():
    torch._dynamo.reset()
    counters["stats"].clear()
    network = OneBlock()
    apply(Speed(compile="regional"), SimpleNamespace(unet=network, vae=None), STABLE_DIFFUSION)

    shapes = [(width, size, 4) for size in (3, 5, 7) for width in (2, 4, 8, 16)]
    for shape in [*shapes, *shapes[::-1]]:
        network.block(torch.ones(shape))

    assert counters["stats"]["unique_graphs"] == len(shapes) > 8


def test_a_compiled_model_is_tested_by_each_process(folder: Path, tmp_path: Path):
    entry = an_entry(lane_width=4, speed=Speed(compile="regional"))
    catalogue = Catalogue(models=(entry,), folder=folder)
    verdict = LaneRule((4,), (1.0,))
    for _ in "12":
        model = load_model(entry, EngineConfig(catalogue=catalogue, state_dir=tmp_path))
        assert not model.promises.known(SIDE, SIDE)
        model.promises._verdicts[f"{SIDE}x{SIDE}"] = Verdict("exact", verdict, 4, 1.0)
        model.promises._write()
        model.close()


@pytest.mark.slow
def test_compiled_images_in_company_keep_their_bits(folder: Path):
    model = loaded(folder, compile="regional")
    requests = [a_request(seed=i, steps=3) for i in range(2)]

    ends = run(model, requests)

    assert [pixels(ends[r.id]) for r in requests] == [alone(model, r) for r in requests]


@pytest.mark.parametrize("quantize", ["nf4", "int8"])
@pytest.mark.skipif(find_spec("bitsandbytes") is not None, reason="the package is there")
def test_an_option_whose_package_is_missing_names_it(folder: Path, quantize: str):
    with pytest.raises(ModelBroken, match="pip install bitsandbytes"):
        loaded(folder, quantize=quantize)


def test_an_attention_backend_that_is_not_there_is_refused_in_words(folder: Path):
    with pytest.raises(ModelBroken, match="attention: UNet2DConditionModel"):
        loaded(folder, attention="flash")


@pytest.mark.parametrize(
    ("speed", "says"),
    [
        ({"cache": "first_block"}, "a batch has many images"),
        ({"attention": "flash_hub"}, "download code when they run"),
        ({"offload": "model"}, "replaces the engine's own hooks"),
        ({"quantize": "int3"}, "nf4"),
    ],
)
def test_what_cannot_go_with_batching_is_refused_with_the_model_file(
    speed: dict[str, object], says: str
):
    with pytest.raises(ValidationError, match=says):
        Speed.model_validate(speed)


def test_adapters_and_a_changed_network_do_not_go_together():
    with pytest.raises(ValidationError, match="loras go with neither"):
        an_entry(loras="loras", speed=Speed(compile="regional"))

    assert an_entry(loras="loras", speed=Speed(channels_last=True)).defaults.width == SIDE
