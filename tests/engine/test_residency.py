"""Models come when they are asked for and leave when memory is short."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.catalogue import Catalogue
from tests.engine.tiny import an_entry, tiny_pipeline
from worker.engine.errors import ModelBroken
from worker.engine.residency import Residency, cuda_budget
from worker.messages import EngineConfig


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("models")
    tiny_pipeline().save_pretrained(made / "tiny", safe_serialization=True)
    return made


def a_residency(folder: Path, *, models: str, fits: float, busy: str = "") -> Residency:
    """Models "a" resident, others on demand, with memory for `fits` of them."""
    entries = tuple(an_entry(id=name, resident=name == "a", lane_width=2) for name in models)
    catalogue = Catalogue(models=entries, folder=folder)
    one = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
    config = EngineConfig(catalogue=catalogue, memory_bytes=int(one * fits), self_test=False)
    return Residency(config, lambda model_id: model_id == busy)


def loaded(residency: Residency, names: str) -> str:
    return "".join(name for name in names if residency.find(name))


def test_the_least_recently_used_leaves_when_memory_is_short(folder: Path):
    residency = a_residency(folder, models="abcd", fits=3.5)
    for name in "abc":
        residency.load(name)
    residency.find("b")

    _, left = residency.load("d")

    assert [model.entry.id for model in left] == ["c"]
    assert loaded(residency, "abcd") == "abd"


def test_a_resident_model_and_one_at_work_stay(folder: Path):
    residency = a_residency(folder, models="abc", fits=1.5, busy="b")
    residency.load("a")
    residency.load("b")

    _, left = residency.load("c")

    assert left == []
    assert loaded(residency, "abc") == "abc"


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
