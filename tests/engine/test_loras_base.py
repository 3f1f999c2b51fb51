"""Whatever a LoRA file or its loader does, the model has the bits that it had."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from jobs.contract.loras import LoraFolder
from tests.engine.families import flux
from tests.engine.loras import write_lora
from tests.engine.runs import alone, pixels, run
from tests.engine.test_loras import by_vendor, made
from tests.engine.tiny import a_request, an_entry, loud, tiny_pipeline
from worker.engine.errors import Unservable
from worker.engine.fingerprint import tensors_hash
from worker.engine.model import Extras, Model
from worker.engine.profiles import find_profile
from worker.engine.shared_network import Lent
from worker.messages import Failed, Lora

pytestmark = pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning")
INK = Lora(name="ink")
NORM = "transformer.transformer_blocks.0.attn.norm_q.weight"


def loud_flux() -> Any:
    pipeline = flux()
    loud(pipeline.transformer)
    return pipeline


def a_model(folder: Path, pipeline: Any) -> Model:
    profile = find_profile("auto", type(pipeline).__name__)
    entry = an_entry(
        lane_width=2, prediction="flow" if profile.name == "flux" else "diffusion",
        defaults={"width": 16, "height": 16, "sampler": SAMPLER[profile.name]},
    )  # fmt: skip
    extras = Extras(loras=LoraFolder(folder))
    return Model(entry, pipeline, profile, extras=extras, self_test=False)


SAMPLER = {"flux": "flow_euler", "sd": "ddim"}


def hashes(pipeline: Any) -> dict[str, str]:
    parts = pipeline.components.items()
    return {n: tensors_hash(p) for n, p in parts if isinstance(p, torch.nn.Module)}


def flux_file(folder: Path, more: dict[str, torch.Tensor]) -> None:
    """A Flux LoRA as they are published, with these tensors beside the adapters."""
    torch.manual_seed(1)
    name = "transformer.transformer_blocks.0.attn.to_q"
    layers = {
        f"{name}.lora_A.weight": torch.randn(4, 64),
        f"{name}.lora_B.weight": torch.randn(64, 4),
    }
    save_file(layers | more, folder / "ink.safetensors")


def test_a_flux_file_with_norm_weights_acts_on_its_own_image_and_on_no_other(tmp_path: Path):
    flux_file(tmp_path, {NORM: torch.linspace(-2.0, 2.0, 32)})
    model = a_model(tmp_path, loud_flux())
    before, bare = hashes(model.pipeline), a_request(sampler="flow_euler", guidance_scale=3.5)
    dressed = a_request(sampler="flow_euler", guidance_scale=3.5, loras=(INK,))
    alone_before = alone(model, bare)

    ends = run(model, [bare, dressed])

    assert pixels(ends[bare.id]) == alone_before == alone(model, bare)
    assert hashes(model.pipeline) == before
    assert pixels(ends[dressed.id]) == by_vendor(model, tmp_path, dressed, loud_flux)
    flux_file(tmp_path, {})
    assert alone(model, dressed) != pixels(ends[dressed.id])  # the norm weights did something


def test_a_flux_control_file_that_widens_the_network_is_refused_in_words(tmp_path: Path):
    wide = {"transformer.x_embedder.lora_A.weight": torch.randn(4, 32),
            "transformer.x_embedder.lora_B.weight": torch.randn(64, 4)}  # fmt: skip
    flux_file(tmp_path, wide)
    model = a_model(tmp_path, loud_flux())
    before = hashes(model.pipeline)

    with pytest.raises(Unservable, match=r"ink@.* it changes the network itself \(in_channels\)"):
        model.call_for(a_request(sampler="flow_euler", loras=(INK,)))
    assert hashes(model.pipeline) == before
    assert model.pipeline.transformer.config.in_channels == 16


def in_place(pipeline: Any) -> None:
    with torch.no_grad():
        pipeline.unet.conv_in.weight.add_(1)
        pipeline.text_encoder.get_input_embeddings().weight.data[3] = 5.0


def new_data(pipeline: Any) -> None:
    pipeline.unet.conv_out.weight.data = torch.zeros_like(pipeline.unet.conv_out.weight)


def new_part(pipeline: Any) -> None:
    pipeline.unet.conv_in = torch.nn.Conv2d(4, 64, 3, padding=1)


def new_parameter(pipeline: Any) -> None:
    pipeline.unet.conv_in.bias = torch.nn.Parameter(torch.ones(64))


def by_numpy(pipeline: Any) -> None:
    pipeline.unet.conv_in.bias.detach().numpy()[:] = 9.0


def a_buffer(pipeline: Any) -> None:
    for _, buffer in pipeline.text_encoder.named_buffers():
        buffer.zero_()
    pipeline.text_encoder.config.hidden_act = "relu"


def another_network(pipeline: Any) -> None:
    pipeline.unet = tiny_pipeline().unet


def half_way(pipeline: Any) -> None:
    in_place(pipeline)
    raise RuntimeError("asked to stop half way")


def the_vae(pipeline: Any) -> None:
    pipeline.vae.decoder.conv_in.weight.data.zero_()


WRITERS = [in_place, new_data, new_part, new_parameter, by_numpy, a_buffer, another_network,
           half_way, the_vae]  # fmt: skip


def a_model_whose_loader(writes: Callable[[Any], None], folder: Path) -> Model:
    class Writing(type(tiny_pipeline())):
        def load_lora_weights(self, *args: Any, **kwargs: Any) -> None:
            super().load_lora_weights(*args, **kwargs)
            writes(self)

    known = tiny_pipeline()
    pipeline = Writing(**known.components, requires_safety_checker=False)
    profile = find_profile("sd", "StableDiffusionPipeline")
    extras = Extras(loras=LoraFolder(folder))
    return Model(an_entry(), pipeline, profile, extras=extras, self_test=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("loras")
    write_lora(made, "ink", seed=1, text=True)
    return made


@pytest.mark.parametrize("writes", WRITERS, ids=lambda writes: writes.__name__)
def test_a_loader_that_writes_where_it_pleases_changes_nothing_for_others(
    folder: Path, writes: Callable[[Any], None]
):
    model = a_model_whose_loader(writes, folder)
    before, bare, dressed = hashes(model.pipeline), a_request(), a_request(loras=(INK,))
    settings = [repr(dict(p.config)) for p in (model.pipeline.unet, model.pipeline.vae)]
    picture = alone(model, bare)

    ends = run(model, [bare, dressed])

    assert pixels(ends[bare.id]) == picture == alone(model, bare)
    assert hashes(model.pipeline) == before
    assert settings == [repr(dict(p.config)) for p in (model.pipeline.unet, model.pipeline.vae)]
    assert model.pipeline.text_encoder.config.hidden_act == "quick_gelu"
    end = ends[dressed.id]
    if writes in (a_buffer, another_network, half_way, the_vae):
        assert isinstance(end, Failed)
        assert "cannot be put on this model" in end.message
    else:
        assert made(end).fingerprint.count("loras=ink@") == 1


def test_what_a_loader_does_to_the_model_itself_is_undone_and_its_file_refused(folder: Path):
    def past_the_copy(_: Any) -> None:
        own = model.pipeline.unet
        own.conv_in.weight.data.add_(1)
        own.conv_out.bias = torch.nn.Parameter(torch.ones(4))
        own.mid_block = torch.nn.Identity()

    model = a_model_whose_loader(past_the_copy, folder)
    before, bare, dressed = hashes(model.pipeline), a_request(), a_request(loras=(INK,))
    picture = alone(model, bare)

    ends = run(model, [bare, dressed])

    assert hashes(model.pipeline) == before
    assert pixels(ends[bare.id]) == picture
    end = ends[dressed.id]
    assert isinstance(end, Failed)
    assert "its loader wrote to the model itself" in end.message


def test_a_set_shares_every_tensor_of_the_model_that_its_files_left_alone(folder: Path):
    model = a_model_whose_loader(in_place, folder)
    bare = model.weight_bytes

    model.call_for(a_request(loras=(INK,)))

    file = sum(t.numel() * t.element_size() for t in load_file(folder / "ink.safetensors").values())
    unet, encoder = model.pipeline.unet, model.pipeline.text_encoder
    written = (unet.conv_in.weight, encoder.get_input_embeddings().weight)
    own = sum(t.numel() * t.element_size() for t in written)
    assert model.weight_bytes - bare == file + own


def test_a_copy_that_is_dropped_leaves_nothing_in_memory():
    network = torch.nn.Linear(4, 4)
    lent = Lent(network)
    shared = weakref.ref(lent.module.weight)

    lent.take_back()
    lent.drop()
    gc.collect()

    assert lent.module.weight is network.weight
    assert shared() is None


def test_a_file_that_is_refused_is_not_read_again_until_it_changes(tmp_path: Path):
    reads: list[int] = []

    def counts(_: Any) -> None:
        reads.append(1)
        raise ValueError("no")

    model = a_model_whose_loader(counts, tmp_path)
    write_lora(tmp_path, "ink", seed=1)
    for _ in range(3):
        with pytest.raises(Unservable):
            model.call_for(a_request(loras=(INK,)))
    assert len(reads) == 1

    write_lora(tmp_path, "ink", seed=2)

    with pytest.raises(Unservable):
        model.call_for(a_request(loras=(INK,)))
    assert len(reads) == 2
