"""LoRA adapters per image: the vendor's own bits for those that ask, not one other for the rest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer

from jobs.contract.loras import LoraFolder
from tests.engine.families import pixart
from tests.engine.loras import demo, write_lora
from tests.engine.more_families import whole_sdxl
from tests.engine.runs import alone, endings, finish, pixels, run
from tests.engine.tiny import a_request, an_entry, tiny_pipeline
from worker.engine.batcher import Engine
from worker.engine.errors import ModelBroken, Unservable
from worker.engine.gates import Gate, Kind, ModelCall
from worker.engine.image_call import to_pixels
from worker.engine.model import Extras, Model
from worker.engine.profiles import find_profile
from worker.engine.prompt_cache import PromptCache
from worker.messages import Failed, Finished, ImageRequest, Lora

pytestmark = pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning")
INK, GOLD, TALK = Lora(name="ink"), Lora(name="gold"), Lora(name="talk", scale=0.7)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("loras")
    write_lora(made, "ink", seed=1)
    write_lora(made, "gold", seed=2)
    write_lora(made, "talk", seed=3, text=True)
    (made / "torn.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      nothing")
    return made


def a_model(folder: Path | None, pipeline: Any = None, **entry: Any) -> Model:
    pipeline = pipeline or tiny_pipeline()
    profile = find_profile("auto", type(pipeline).__name__)
    extras = Extras(loras=LoraFolder(folder) if folder else None)
    return Model(an_entry(**{"lane_width": 2, **entry}), pipeline, profile, extras=extras)


@pytest.fixture(scope="module")
def model(folder: Path) -> Iterator[Model]:
    made = a_model(folder)
    yield made
    made.close()


def by_vendor(model: Model, folder: Path, request: ImageRequest, build: Any = tiny_pipeline):
    """The plain pipeline with the files loaded into it, as diffusers' documentation says."""
    pipeline = build()
    pipeline.set_progress_bar_config(disable=True)
    names = [lora.name for lora in request.loras]
    for name in names:
        pipeline.load_lora_weights(str(folder / f"{name}.safetensors"), adapter_name=name)
    pipeline.set_adapters(names, [lora.scale for lora in request.loras])
    generator = torch.Generator().manual_seed(request.seed)
    pipeline.scheduler = model.samplers.take(request.sampler, generator)
    made = pipeline(
        **model.profile.arguments(request, pipeline), generator=generator, output_type="np"
    )
    return to_pixels(made.images[0]).data


def test_images_with_adapters_have_the_vendors_bits_and_their_neighbours_keep_theirs(
    model: Model, folder: Path
):
    plain = [a_request(seed=i, sampler=s) for i, s in enumerate(("ddim", "euler_a"))]
    before = {r.id: alone(model, r) for r in plain}
    dressed = [
        a_request(seed=5, loras=(INK,), sampler="euler"),
        a_request(seed=6, loras=(INK, GOLD), guidance_scale=3.0),
        a_request(seed=7, loras=(TALK,), steps=4),
    ]

    ends = run(model, [plain[0], *dressed, plain[1]])

    for request in dressed:
        assert pixels(ends[request.id]) == by_vendor(model, folder, request)
    during = {r.id: pixels(ends[r.id]) for r in plain}
    after = {r.id: alone(model, r) for r in plain}
    assert before == during == after
    assert len({pixels(e) for e in ends.values()}) == len(ends)  # each adapter did something


def test_sdxl_takes_adapters_on_its_unet(tmp_path: Path):
    write_lora(tmp_path, "xl", seed=4, build=whole_sdxl)
    model = a_model(tmp_path, whole_sdxl())
    request = a_request(loras=(Lora(name="xl"),), sampler="euler")

    ends = run(model, [request, a_request(sampler="euler", seed=2)])

    assert pixels(ends[request.id]) == by_vendor(model, tmp_path, request, whole_sdxl)


def test_images_of_one_set_share_their_calls_and_no_others_join_them(folder: Path):
    model = a_model(folder, lane_width=4)
    both = [a_request(seed=i, loras=loras) for i, loras in enumerate([(INK, GOLD), (GOLD, INK)])]
    weaker = a_request(seed=3, loras=(Lora(name="ink", scale=0.5), GOLD))

    ends = run(model, [*both, weaker, a_request(seed=9)])

    met = {r.id: end.batch_size_mean for r in [*both, weaker] if (end := made(ends[r.id]))}
    assert met == {both[0].id: 2.0, both[1].id: 2.0, weaker.id: 1.0}
    assert pixels(ends[both[0].id]) == alone(model, both[0])


def made(ending: Any) -> Finished:
    assert isinstance(ending, Finished), ending
    return ending


def test_the_fingerprint_names_files_by_digest_and_their_scales(model: Model, folder: Path):
    request = a_request(loras=(TALK, GOLD))

    ends = run(model, [request, bare := a_request()])

    gold, talk = (LoraFolder(folder).find(name).digest[:12] for name in ("gold", "talk"))  # type: ignore[union-attr]
    assert f" loras=gold@{gold}:1+talk@{talk}:0.7" in made(ends[request.id]).fingerprint
    assert "loras=" not in made(ends[bare.id]).fingerprint
    assert made(ends[request.id]).reproducibility == "exact"


def test_sets_leave_memory_least_recently_used_first_and_come_back_with_the_same_bits(folder: Path):
    model = a_model(folder, lora_sets=1)
    bare = model.weight_bytes
    request = a_request(loras=(INK,))

    first = alone(model, request)
    one_set = model.weight_bytes
    alone(model, a_request(loras=(GOLD,)))

    assert bare < one_set == model.weight_bytes
    assert alone(model, request) == first


def test_a_set_that_is_dropped_while_at_work_is_kept_by_its_image(folder: Path):
    model = a_model(folder, lora_sets=1)
    early, late = a_request(loras=(INK,), steps=8), a_request(loras=(GOLD,), seed=8)
    alone_first = {r.id: alone(model, r) for r in (early, late)}
    engine = Engine([model])
    engine.submit(early)
    events = [*engine.tick(), *engine.tick()]

    engine.submit(late)
    ends = endings([*events, *finish(engine)])

    assert {id_: pixels(end) for id_, end in ends.items()} == alone_first


def test_a_prompt_encoded_by_a_set_that_left_is_not_taken_for_another_sets():
    # Python gives a new gate the address of one that is gone: by address, the cache mixed them up.
    cache, first, second = PromptCache(), torch.nn.Identity(), torch.nn.Identity()
    gate = Gate(first, "forward", Kind.ENCODE)
    cache.keep(ModelCall(gate, {"input": "a prompt"}), torch.ones(1))

    Gate.__init__(gate, second, "forward", Kind.ENCODE)  # a new one, at the same address

    assert cache.find(ModelCall(gate, {"input": "a prompt"})) is None


@pytest.mark.parametrize(
    ("name", "says"), [("torn", "cannot be put on this model"), ("ink/../gold", "there is no LoRA")]
)
def test_an_adapter_that_cannot_be_had_fails_its_own_image(model: Model, name: str, says: str):
    request, neighbour = a_request(loras=(Lora(name=name),)), a_request()

    ends = run(model, [request, neighbour])

    end = ends[request.id]
    assert isinstance(end, Failed)
    assert end.code == "unservable"
    assert says in end.message
    assert pixels(ends[neighbour.id]) == alone(model, neighbour)


def test_an_adapter_of_another_kind_of_model_fails_its_own_image(tmp_path: Path):
    write_lora(tmp_path, "xl", seed=4, build=whole_sdxl)
    model = a_model(tmp_path)

    with pytest.raises(Unservable, match=r"xl@.* cannot be put on this model"):
        model.call_for(a_request(loras=(Lora(name="xl"),)))


def test_a_pipeline_that_takes_no_adapters_says_so_when_it_is_loaded(tmp_path: Path):
    with pytest.raises(ModelBroken, match="takes no LoRA"):
        a_model(tmp_path, pixart())


def test_the_shipped_model_takes_adapters(tmp_path: Path):
    write_lora(tmp_path, "ink", seed=1, build=demo, text=True)
    model = a_model(tmp_path, demo())
    request = a_request(width=64, height=64, steps=2, loras=(Lora(name="ink", scale=0.5),))

    ends = run(model, [request, bare := replace(request, id="bare", loras=())])

    # diffusers' own set_adapters cannot count this UNet's layers: its layers are set one by one.
    pipeline = demo()
    pipeline.set_progress_bar_config(disable=True)
    pipeline.load_lora_weights(str(tmp_path / "ink.safetensors"), adapter_name="ink")
    for layer in (*pipeline.unet.modules(), *pipeline.text_encoder.modules()):
        if isinstance(layer, BaseTunerLayer):
            layer.set_scale("ink", 0.5)
    generator = torch.Generator().manual_seed(request.seed)
    pipeline.scheduler = model.samplers.take(request.sampler, generator)
    arguments = model.profile.arguments(request, pipeline)
    made = pipeline(**arguments, generator=generator, output_type="np")
    assert pixels(ends[request.id]) == to_pixels(made.images[0]).data
    assert pixels(ends[request.id]) != pixels(ends[bare.id])
