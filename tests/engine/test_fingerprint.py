"""One fingerprint, one picture: whatever the bits depend on is in the line."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from jobs.contract.loras import LoraFile
from jobs.contract.model_file import Catalogue
from tests.engine.tiny import an_entry, tiny_pipeline, tiny_unet
from worker.engine import fingerprint
from worker.engine.adapters import label
from worker.engine.errors import ModelBroken
from worker.engine.fingerprint import kernel_choice, libraries, tensors_hash
from worker.engine.model_files import Digests, files_of, memory_of
from worker.engine.model_pool import folder_of, load_model
from worker.messages import EngineConfig

MKLDNN: Any = torch.backends.mkldnn
UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("saved")
    tiny_pipeline().save_pretrained(made, safe_serialization=True)
    return made


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return shutil.copytree(saved, tmp_path / "tiny")


def digest(folder: Path, variant: str | None = None) -> str:
    return Digests(None).of(folder, files_of(folder, variant))


def flip(path: Path, at: int) -> None:
    """One bit of a file."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "file",
    [UNET, "vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors",
     "model_index.json", "unet/config.json", "scheduler/scheduler_config.json",
     "tokenizer/tokenizer_config.json"],
)  # fmt: skip
def test_one_bit_at_the_end_of_any_file_is_another_model(folder: Path, file: str):
    before = digest(folder)

    flip(folder / file, -2)

    assert digest(folder) != before


def test_a_vocabulary_of_any_kind_counts_and_what_is_for_people_does_not(folder: Path):
    before = digest(folder)
    for name in ("README.md", "grid.png", "unet/diffusion_pytorch_model.bin", ".cache/x.json"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("other")
    assert digest(folder) == before

    (folder / "tokenizer/spiece.model").write_text("words")

    assert digest(folder) != before


def test_of_two_variants_in_a_folder_the_one_that_is_loaded_counts(folder: Path):
    state = load_file(folder / UNET)
    half = {name: tensor.half() for name, tensor in state.items()}
    both, plain = folder / UNET.replace(".safe", ".fp16.safe"), digest(folder)
    save_file(half, both)

    assert digest(folder) == plain != digest(folder, "fp16")
    assert {p.name for p in files_of(folder, "fp16") if p.parent.name == "unet"} >= {both.name}
    assert folder / UNET not in files_of(folder, "fp16")
    numbers = sum(t.numel() for t in state.values())
    assert memory_of([both], 4) == memory_of([folder / UNET], 4) == 4 * numbers


def test_the_variant_and_every_byte_are_in_the_line_of_a_loaded_model(folder: Path):
    state = load_file(folder / UNET)
    save_file({n: t.half() for n, t in state.items()}, folder / UNET.replace(".safe", ".fp16.safe"))

    plain, half = line(folder), line(folder, variant="fp16")
    flip(folder / UNET, -1)

    assert "variant=fp16" in half.split()
    assert len({model_of(one) for one in (plain, half, line(folder))}) == 3


def line(folder: Path, **entry: Any) -> str:
    catalogue = Catalogue(models=(an_entry(**entry),), folder=folder.parent)
    config = EngineConfig(catalogue=catalogue, self_test=False, state_dir=folder.parent / "state")
    model = load_model(catalogue.default, config)
    model.close()
    return model.fingerprint


def model_of(line: str) -> str:
    return next(word for word in line.split() if word.startswith("model="))


def test_files_that_change_while_they_are_read_make_no_model(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    real = StableDiffusionPipeline.to

    def meanwhile(self: Any, *args: Any, **kwargs: Any) -> Any:
        flip(folder / UNET, -1)
        return real(self, *args, **kwargs)

    monkeypatch.setattr(StableDiffusionPipeline, "to", meanwhile)

    with pytest.raises(ModelBroken, match="changed while they were read"):
        line(folder)


def test_a_folder_with_a_revision_goes_by_its_bytes_all_the_same(folder: Path):
    before = line(folder, revision="a" * 40)
    flip(folder / UNET, -1)

    assert line(folder, revision="a" * 40) != before


def test_a_hubs_snapshot_is_counted_and_hashed_like_a_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    home, commit = tmp_path / "hub/models--some--tiny/snapshots", "a" * 40
    shutil.copytree(folder, home / commit)
    entry = an_entry(source="some/tiny", revision=commit)
    found = folder_of(entry, Catalogue(models=(entry,), folder=tmp_path))

    assert found is not None
    assert found == home / commit
    assert digest(found) == digest(folder)


def test_a_digest_is_noted_until_a_file_changes_though_its_times_say_nothing(
    folder: Path, tmp_path: Path
):
    state, files = tmp_path / "state", files_of(folder, None)
    before = Digests(state).of(folder, files)
    stat = (folder / UNET).stat()

    flip(folder / UNET, -1)
    os.utime(folder / UNET, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    assert Digests(state).of(folder, files) != before


def test_notes_spare_the_reading_and_torn_ones_cost_it(folder: Path, tmp_path: Path):
    state, files = tmp_path / "state", files_of(folder, None)
    before = Digests(state).of(folder, files)
    notes = state / "digests.json"
    read = json.loads(notes.read_text())

    read[str(folder / UNET)][-1] = "0" * 64  # believed, so it is not read again
    notes.write_text(json.dumps(read))
    assert Digests(state).of(folder, files) != before
    for torn in ("", "{", "[1]", '{"a": 3}'):
        notes.write_text(torn)
        assert Digests(state).of(folder, files) == before


SWITCHES: list[tuple[str, Callable[[], object], Callable[[], object]]] = [
    ("matmul-precision:high", lambda: torch.set_float32_matmul_precision("high"),
     lambda: torch.set_float32_matmul_precision("highest")),
    ("math-sdp:False", lambda: torch.backends.cuda.enable_math_sdp(False),
     lambda: torch.backends.cuda.enable_math_sdp(True)),
    ("flash-sdp:False", lambda: torch.backends.cuda.enable_flash_sdp(False),
     lambda: torch.backends.cuda.enable_flash_sdp(True)),
    ("reduced-math-sdp:True",
     lambda: torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True),
     lambda: torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(False)),
    ("mkldnn-matmul-precision:bf16",
     lambda: setattr(MKLDNN.matmul, "fp32_precision", "bf16"),
     lambda: setattr(MKLDNN.matmul, "fp32_precision", "none")),
]  # fmt: skip


@pytest.mark.parametrize(("word", "turn", "back"), SWITCHES, ids=[s[0] for s in SWITCHES])
def test_a_switch_of_torch_that_chooses_kernels_is_told(
    word: str, turn: Callable[[], object], back: Callable[[], object]
):
    assert kernel_choice("cpu") == {"kernels": "usual"}
    turn()
    try:
        assert word in str(kernel_choice("cpu")["kernels"]).split("+")
    finally:
        back()
    assert kernel_choice("cpu") == {"kernels": "usual"}


@pytest.mark.parametrize("name", ["NVIDIA_TF32_OVERRIDE", "ONEDNN_MAX_CPU_ISA", "MKL_CBWR"])
def test_a_variable_that_chooses_kernels_is_told_as_one_word(
    name: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(name, "A B=1")

    assert kernel_choice("cpu") == {"kernels": f"{name}:A_B_1"}


def test_on_a_gpu_its_own_switches_and_libraries_are_told():
    cuda = torch.backends.cuda.matmul
    assert kernel_choice("cuda")["kernels"] == "usual"
    cuda.allow_bf16_reduced_precision_reduction = False
    torch.backends.cudnn.allow_tf32 = False
    try:
        told = str(kernel_choice("cuda")["kernels"]).split("+")
    finally:
        cuda.allow_bf16_reduced_precision_reduction = True
        torch.backends.cudnn.allow_tf32 = True
    assert {"bf16-reduction:False", "cudnn-conv-precision:ieee"} <= set(told)
    assert kernel_choice("cuda").keys() >= {"cuda", "cudnn", "nvidia"}


def test_libraries_that_make_bits_are_told_with_their_versions(monkeypatch: pytest.MonkeyPatch):
    assert libraries().keys() >= {"numpy", "scipy", "torchsde", "tokenizers", "pillow", "peft"}
    monkeypatch.setattr(fingerprint, "version", lambda name: "9.9")
    told = fingerprint.fingerprint(an_entry(), "0" * 64, tiny_pipeline(), "cpu")

    assert "peft-9.9" in told
    assert "flash-attn-9.9" in told
    assert "sageattention-9.9" in told


def test_a_network_in_memory_goes_by_its_settings_and_every_number():
    network = tiny_unet()
    before = tensors_hash(network)
    with torch.no_grad():
        network.conv_out.weight[-1, -1, -1, -1] += 1e-6
    assert tensors_hash(network) != before

    other = tiny_unet()
    other.register_to_config(center_input_sample=True)

    assert tensors_hash(other) != before == tensors_hash(tiny_unet())


def test_scales_are_told_with_every_digit():
    file = LoraFile("ink", Path("ink.safetensors"), 1, "0" * 64)

    assert label(((file, 0.1234567),)) != label(((file, 0.1234568),))
    assert label(((file, 1),)) == label(((file, 1.0),)) == "ink@000000000000:1"
