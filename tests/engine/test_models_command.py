"""`python -m worker models`: what it prints of a model is what the engine then promises."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.contract.model_file import load_catalogue
from jobs.errors import SettingsError
from jobs.settings import ROOT
from tests.engine.families import FlowMatch
from tests.engine.loras import write_lora
from tests.engine.tiny import tiny_pipeline
from worker.models import command
from worker.models.entry import NewModelOptions, append_entry, draft_entry, fetch_model

NEARBY = "http://127.0.0.1:9"  # nobody listens at the port `discard`: a hub that is not there


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("models")
    tiny_pipeline().save_pretrained(made / "tiny", safe_serialization=True)
    (made / "loras").mkdir()
    write_lora(made / "loras", "ink", seed=1)
    return made


@pytest.fixture
def folder(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a tiny model and a model file that names it, for commands of this process."""
    shutil.copytree(shared, tmp_path / "models")
    monkeypatch.setenv("PRINTWORKS_MODELS_FILE", str(tmp_path / "models" / "models.toml"))
    monkeypatch.setenv("PRINTWORKS_WORKER_THREADS", "1")
    (tmp_path / "models" / "models.toml").write_text(ENTRY.format(id="first", source="tiny"))
    return tmp_path / "models"


ENTRY = """
[[model]]
id = "{id}"
source = "{source}"
loras = "loras"
[model.defaults]
width = 16
height = 16
[model.limits]
min_side = 8
"""


def test_check_says_class_lanes_memory_samplers_and_adapters(folder: Path, capsys):
    assert command.main(["check", "first", "--size", "24x16"]) == 0

    said = capsys.readouterr().out
    assert "StableDiffusionPipeline, profile sd" in said
    assert "MB of weights" in said
    assert "16x16" in said
    assert "24x16" in said
    assert said.count("exact; lanes of ") == 2
    assert "dpmpp_2m, dpmpp_2m_karras" in said
    assert "ink@" in said


def test_check_goes_on_after_a_broken_model_and_says_which_it_was(folder: Path, capsys):
    file = folder / "models.toml"
    file.write_text(ENTRY.format(id="lost", source="nowhere") + file.read_text())

    assert command.main(["check"]) == 1

    said = capsys.readouterr()
    assert "models: lost: model lost: 'nowhere' is no folder" in said.err
    assert "profile sd" in said.out


def test_check_names_samplers_that_are_offered_and_do_not_fit(folder: Path, capsys):
    file = folder / "models.toml"
    text = file.read_text().replace('source = "tiny"', 'source = "tiny"\nprediction = "flow"')
    file.write_text(text.replace("height = 16", 'height = 16\nsampler = "flow_euler"'))

    assert command.main(["check", "first"]) == 1

    said = capsys.readouterr().err
    assert "models: first: the entry offers samplers that do not fit the model (flow_euler" in said
    assert "check the entry's `prediction`" in said


def test_an_unknown_id_or_a_size_that_is_none_is_refused(folder: Path, capsys):
    assert command.main(["check", "second"]) == 2
    assert "it has: first" in capsys.readouterr().err

    with pytest.raises(SystemExit):
        command.main(["check", "--size", "big"])


def test_list_says_where_each_model_is(folder: Path, capsys):
    assert command.main(["list"]) == 0

    said = capsys.readouterr().out
    assert "first  (default)" in said
    assert str(folder / "tiny") in said


def test_add_writes_an_entry_that_passed_its_check(folder: Path, capsys):
    shutil.copytree(folder / "tiny", folder / "other")
    added = ["add", str(folder / "other"), "--id", "second", "--title", 'It\'s "new"']

    assert command.main([*added, "--on-demand"]) == 0

    first, second = load_catalogue(folder / "models.toml").models
    assert (first.id, second.id, second.source) == ("first", "second", "other")
    assert (second.title, second.resident) == ('It\'s "new"', False)
    assert (second.defaults.width, second.limits.side_multiple) == (16, 4)
    assert "second added to" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("source", "name", "says"),
    [
        ("tiny", "first", "model IDs repeat"),
        ("tiny", "No Name", "should match pattern"),
        ("loras", "third", "no model_index.json"),
    ],
)
def test_add_refuses_in_words_and_leaves_the_file_as_it_was(
    folder: Path, capsys, source: str, name: str, says: str
):
    before = (folder / "models.toml").read_text()

    assert command.main(["add", str(folder / source), "--id", name]) == 2

    assert says in capsys.readouterr().err
    assert (folder / "models.toml").read_text() == before


def test_a_model_that_fails_its_check_is_not_added(folder: Path, capsys):
    shutil.copytree(folder / "tiny", folder / "torn")
    next((folder / "torn" / "unet").glob("*.safetensors")).write_bytes(b"torn")
    before = (folder / "models.toml").read_text()

    assert command.main(["add", str(folder / "torn"), "--id", "torn"]) == 1

    assert "is unchanged" in capsys.readouterr().err
    assert (folder / "models.toml").read_text() == before


def test_without_a_hub_a_repository_is_refused_in_words(folder: Path):
    # A process of its own: the hub's client reads its address when it is imported.
    environ = {n: v for n, v in os.environ.items() if not n.startswith("HF_")}
    told = subprocess.run(
        [sys.executable, "-m", "worker", "models", "add", "someone/some-model", "--id", "x"],
        env=environ | {"HF_ENDPOINT": NEARBY, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )

    assert told.returncode == 2
    advice = "'someone/some-model' is not a folder, and the Hugging Face Hub is unreachable"
    assert advice in told.stderr


def test_the_draft_of_the_demo_is_what_its_entry_says():
    ours = load_catalogue(ROOT / "models/models.toml").default
    file = ROOT / "models/models.toml"
    folder, wish = fetch_model(NewModelOptions(source="demo", id="again"), file)

    entry = append_entry(file, draft_entry(wish, folder)).models[-1]

    assert (entry.source, entry.prediction) == (ours.source, ours.prediction)
    assert (entry.defaults.width, entry.defaults.height) == (
        ours.defaults.width,
        ours.defaults.height,
    )


def test_a_flow_model_is_drafted_with_a_flow_sampler(tmp_path: Path):
    (tmp_path / "flow" / "transformer").mkdir(parents=True)
    (tmp_path / "flow" / "model_index.json").write_text("{}")
    (tmp_path / "flow" / "transformer" / "config.json").write_text('{"sample_size": 128}')
    FlowMatch(shift=3.0).save_pretrained(tmp_path / "flow" / "scheduler")
    folder, wish = fetch_model(NewModelOptions(source="flow", id="flow"), tmp_path / "models.toml")

    entry = append_entry(tmp_path / "models.toml", draft_entry(wish, folder)).default

    assert (entry.prediction, entry.defaults.sampler) == ("flow", "flow_euler")
    assert entry.defaults.width == 1024


def test_a_configuration_that_is_no_json_is_named(tmp_path: Path):
    (tmp_path / "m" / "scheduler").mkdir(parents=True)
    (tmp_path / "m" / "scheduler" / "scheduler_config.json").write_text("{")

    with pytest.raises(SettingsError, match=r"scheduler_config\.json"):
        draft_entry(NewModelOptions(source="m", id="m"), tmp_path / "m")
