"""Models come when they are asked for and leave when memory is short."""

from __future__ import annotations

import gc
import shutil
import weakref
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from jobs.contract.model_file import Catalogue, ModelEntry, NetworkSource
from tests.engine.runs import finish
from tests.engine.tiny import a_request, an_entry, tiny_pipeline
from worker.engine.errors import DeviceMemoryFull, ModelBroken
from worker.engine.model import Model
from worker.engine.model_pool import Residency, cuda_budget, expected_bytes, load_model
from worker.engine.process import EngineProcess
from worker.messages import EngineConfig, Loading

UNET = "unet/diffusion_pytorch_model.safetensors"
REVISION = "a" * 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("models")
    tiny_pipeline().save_pretrained(made / "tiny", safe_serialization=True)
    return made


class Loads:
    """Loads models as ever, and looks at each moment at who is still in memory."""

    def __init__(self) -> None:
        self.networks: dict[str, weakref.ref[Any]] = {}
        self.there: dict[str, str] = {}  # for each model that was loaded, who was in memory then
        self.full: dict[str, int] = {}  # how often the device is full when this one is loaded

    def __call__(self, entry: ModelEntry, config: EngineConfig) -> Model:
        self.there[entry.id] = "".join(n for n, ref in self.networks.items() if ref() is not None)
        model = load_model(entry, config)
        self.networks[entry.id] = weakref.ref(model.pipeline.unet)
        if self.full.get(entry.id, 0) > 0:
            self.full[entry.id] -= 1
            raise RuntimeError("while moving") from torch.OutOfMemoryError("CUDA out of memory")
        return model


def a_residency(
    folder: Path, *, models: str, fits: float, busy: str = "", **more: Any
) -> Residency:
    """Models "a" resident, others on demand, with memory for `fits` of them."""
    entries = tuple(an_entry(id=name, resident=name == "a", lane_width=2) for name in models)
    catalogue = Catalogue(models=entries, folder=folder)
    config = EngineConfig(
        catalogue=catalogue, memory_bytes=int(one_of(folder) * fits), self_test=False
    )
    return Residency(config, lambda model_id: model_id == busy, **more)


def one_of(folder: Path) -> int:
    files = (folder / "tiny").rglob("*.safetensors")
    return sum(path.stat().st_size for path in files if ".fp16." not in path.name)


def loaded(residency: Residency, names: str) -> str:
    return "".join(name for name in names if residency.find(name))


def test_the_least_recently_used_leaves_when_memory_is_short(folder: Path):
    left: list[str] = []
    residency = a_residency(folder, models="abcd", fits=3.5, leave=left.append)
    for name in "abc":
        residency.load(name)
    residency.find("b")

    residency.load("d")

    assert left == ["c"]
    assert loaded(residency, "abcd") == "abd"


def test_a_model_that_leaves_is_out_of_memory_before_the_next_is_loaded(folder: Path):
    loads = Loads()
    residency = a_residency(folder, models="abc", fits=2.5, load=loads)
    for name in "abcb":
        residency.load(name)

    assert loads.there == {"a": "", "b": "a", "c": "a"}


def test_a_resident_model_and_one_at_work_stay(folder: Path):
    left: list[str] = []
    residency = a_residency(folder, models="abc", fits=1.5, busy="b", leave=left.append)
    residency.load("a")
    residency.load("b")

    residency.load("c")

    assert left == []
    assert loaded(residency, "abc") == "abc"


def test_a_device_that_is_full_after_all_gets_all_the_room_there_is_and_one_more_try(folder: Path):
    loads = Loads()
    loads.full = {"c": 1}
    residency = a_residency(folder, models="abc", fits=9, load=loads)
    for name in "abc":
        residency.load(name)

    assert loads.there["c"] == "a"
    assert loaded(residency, "abc") == "ac"


def test_a_device_too_small_for_a_model_is_told_as_that_and_holds_nothing_of_it(folder: Path):
    loads = Loads()
    loads.full = {"b": 2}
    residency = a_residency(folder, models="ab", fits=9, load=loads)
    residency.load("a")

    with pytest.raises(DeviceMemoryFull, match=r"model 'b' .* does not fit .* beside a"):
        residency.load("b")

    gc.collect()
    assert loads.networks["b"]() is None
    residency.load("b")  # there is room again
    assert loaded(residency, "ab") == "ab"


def test_a_move_to_a_device_that_is_full_is_a_failure_of_loading(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(StableDiffusionPipeline, "to", full)

    with pytest.raises(DeviceMemoryFull, match="weights of model 'a': CUDA out of memory"):
        load_model(an_entry(id="a"), a_residency(folder, models="a", fits=9)._config)
    with pytest.raises(DeviceMemoryFull, match=r"does not fit .* beside nothing else"):
        a_residency(folder, models="a", fits=9).load("a")


def test_of_a_folder_what_is_loaded_is_counted(folder: Path, tmp_path: Path):
    two = shutil.copytree(folder / "tiny", tmp_path / "tiny")
    unet = load_file(two / UNET)
    save_file({n: t.half() for n, t in unet.items()}, two / UNET.replace(".safe", ".fp16.safe"))
    shutil.copy(two / UNET, two / "single_file.safetensors")
    entry = an_entry(variant="fp16")
    catalogue = Catalogue(models=(entry,), folder=tmp_path)
    model = load_model(entry, EngineConfig(catalogue=catalogue, self_test=False))

    counted = expected_bytes(entry, catalogue)

    assert counted == expected_bytes(an_entry(), catalogue)
    assert counted == model.weight_bytes
    assert expected_bytes(an_entry(dtype="bfloat16"), catalogue) == counted // 2


def test_controlnets_in_other_folders_are_counted(folder: Path, tmp_path: Path):
    shutil.copytree(folder / "tiny", tmp_path / "tiny")
    net = ControlNetModel.from_unet(tiny_pipeline().unet, conditioning_embedding_out_channels=(8,))
    net.save_pretrained(tmp_path / "edges")
    entry = an_entry(controls={"edges": NetworkSource(source="edges")})
    catalogue = Catalogue(models=(entry,), folder=tmp_path)

    more = expected_bytes(entry, catalogue) - expected_bytes(an_entry(), catalogue)

    assert more == sum(p.numel() * 4 for p in net.parameters())


@pytest.mark.filterwarnings("ignore:The `local_dir_use_symlinks` argument:UserWarning")
def test_a_hubs_repository_makes_room_as_a_folder_does(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in "bc":
        home = tmp_path / f"models--some--{name}"
        shutil.copytree(folder / "tiny", home / "snapshots" / REVISION)
    entries = tuple(
        an_entry(id=n, source=f"some/{n}", revision=REVISION, resident=False) for n in "bc"
    )
    config = EngineConfig(
        catalogue=Catalogue(models=entries, folder=tmp_path),
        memory_bytes=int(one_of(folder) * 1.5), self_test=False,
    )  # fmt: skip
    loads = Loads()
    residency = Residency(config, lambda _: False, load=loads)

    residency.load("b")
    residency.load("c")

    assert loads.there == {"b": "", "c": ""}


def test_a_model_that_worked_leaves_the_engines_process_whole(folder: Path):
    entries = tuple(an_entry(id=n, resident=False, lane_width=2) for n in "bc")
    catalogue = Catalogue(models=entries, folder=folder)
    config = EngineConfig(catalogue=catalogue, memory_bytes=int(one_of(folder) * 1.5))
    pipes: Any = Pipe()
    ours, theirs = pipes
    process = EngineProcess(theirs, config)
    process._residency._load = loads = Loads()
    for name in "bcb":
        request = a_request(model=name, steps=2, preview_every_s=0.0)
        process._prepare(request)
        process._engine.submit(request)
        finish(process._engine)

    assert loads.there == {"b": "", "c": ""}
    ours.close()
    theirs.close()


def test_the_parent_stays_patient_with_a_test_that_goes_on_after_another_model_was_loaded(
    folder: Path,
):
    entries = tuple(an_entry(id=n, resident=False, lane_width=2) for n in "bc")
    config = EngineConfig(catalogue=Catalogue(models=entries, folder=folder))
    pipes: Any = Pipe()
    ours, theirs = pipes
    process = EngineProcess(theirs, config)
    new, other = a_request(model="b", width=24), a_request(model="c")

    for request in (new, other):
        process._prepare(request)
        process._engine.submit(request)
        process._engine.tick()
        process._tell_of_preparing()

    assert process._engine.preparing == "b"
    told: list[Any] = []
    while ours.poll():
        told.append(ours.recv())
    assert told[-1] == Loading(model="b", fraction=0.9)
    finish(process._engine)
    process._tell_of_preparing()
    assert ours.recv() == Loading(model="b", fraction=1.0)
    ours.close()
    theirs.close()


def test_a_model_that_is_not_there_is_refused_in_words(tmp_path: Path):
    residency = a_residency(tmp_path, models="a", fits=9)

    with pytest.raises(ModelBroken, match="pinned `revision`"):
        residency.load("a")


def test_a_broken_model_folder_is_refused_in_words(tmp_path: Path):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "model_index.json").write_text("{")

    with pytest.raises(ModelBroken, match="tiny"):
        a_residency(tmp_path, models="a", fits=9).load("a")


def test_a_gpu_that_others_use_is_left_to_them():
    gib = 1 << 30

    assert cuda_budget(100 * gib, free=99 * gib, ours=0) == 90 * gib
    assert cuda_budget(100 * gib, free=49 * gib, ours=50 * gib) == 90 * gib  # what is used is ours
    assert cuda_budget(100 * gib, free=40 * gib, ours=0) == 35 * gib
    assert cuda_budget(100 * gib, free=10 * gib, ours=30 * gib) == 35 * gib  # it does not shrink
    assert cuda_budget(100 * gib, free=1 * gib, ours=0) == 0
