"""Commands for the model file: `python -m worker models list|check|add`.

Owns the printed output and the exit status: 0 success, 1 a model fails its check, 2 the command or
the model file is wrong. `entry.py` writes entries; torch is imported only to load a model.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from jobs.contract.model_file import Catalogue, ModelEntry, load_catalogue
from jobs.errors import PrintworksError, SettingsError
from worker.messages import EngineConfig
from worker.models.entry import NewModelOptions, append_entry, draft_entry, fetch_model
from worker.settings import WorkerSettings

MB = 1024 * 1024
DESCRIPTION = (
    "List, check and add the models of the model file (PRINTWORKS_MODELS_FILE). Exit status:"
    " 0 success, 1 a model fails its check, 2 the command or the model file is wrong."
)


def main(argv: Sequence[str]) -> int:
    """Run one command. Return the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        settings = WorkerSettings.load()
        if arguments.command == "list":
            return _list(load_catalogue(settings.models_file))
        if arguments.command == "check":
            return _check(settings, arguments.ids, arguments.size)
        return _add(settings, arguments)
    except SettingsError as error:
        sys.stderr.write(f"models: {error}\n")
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m worker models", description=DESCRIPTION)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="list the models of the model file")
    check = commands.add_parser(
        "check", help="load models, test them, print their reproducibility, batch size and speed"
    )
    check.add_argument("ids", nargs="*", help="model IDs to check (default: all)")
    check.add_argument(
        "--size",
        action="append",
        default=[],
        type=_size,
        metavar="WxH",
        help="a further image size in px to test, such as 512x768; may be repeated",
    )
    add = commands.add_parser("add", help="check a model and append its entry to the model file")
    add.add_argument("source", help="a diffusers folder or a Hugging Face repository, OWNER/NAME")
    add.add_argument("--id", required=True, help="the model ID that requests name")
    add.add_argument("--title", default="", help="the name that people read")
    add.add_argument(
        "--revision", help="commit, tag or branch of the repository (default: pin the latest)"
    )
    add.add_argument("--variant", help="weight file variant of the repository, such as fp16")
    add.add_argument(
        "--dtype",
        default="float32",
        choices=("float32", "bfloat16", "float16"),
        help="number type of the weights (default: float32)",
    )
    add.add_argument(
        "--on-demand",
        action="store_true",
        help="load the model at its first job, not when the worker starts",
    )
    return parser


def _size(text: str) -> tuple[int, int]:
    width, cross, height = text.partition("x")
    if not (cross and width.isdigit() and height.isdigit()):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a size: write WIDTHxHEIGHT, such as 512x768"
        )
    return int(width), int(height)


def _list(catalogue: Catalogue) -> int:
    for entry in catalogue.models:
        marks = ["default"] * (entry is catalogue.default) + ["on demand"] * (not entry.resident)
        where = catalogue.path_of(entry) or f"{entry.source}@{entry.revision or 'not pinned'}"
        suffix = f"  ({', '.join(marks)})" if marks else ""
        _say(f"{entry.id}{suffix}", f"{where}, {entry.family}, {entry.dtype}")
    return 0


def _check(settings: WorkerSettings, ids: Sequence[str], sizes: Sequence[tuple[int, int]]) -> int:
    catalogue = load_catalogue(settings.models_file)
    if unknown := [name for name in ids if catalogue.get(name) is None]:
        known = ", ".join(entry.id for entry in catalogue.models)
        raise SettingsError(f"{settings.models_file} has no model {unknown[0]!r}; it has: {known}")
    entries = [entry for entry in catalogue.models if not ids or entry.id in ids]
    # Check all models, also after one that fails: the operator corrects the file in one go.
    good = [_passes(settings, catalogue, entry, sizes) for entry in entries]
    return 0 if all(good) else 1


def _add(settings: WorkerSettings, arguments: argparse.Namespace) -> int:
    path = settings.models_file
    options = NewModelOptions(
        source=arguments.source,
        id=arguments.id,
        title=arguments.title,
        revision=arguments.revision,
        variant=arguments.variant,
        dtype=arguments.dtype,
        resident=not arguments.on_demand,
    )
    folder, options = fetch_model(options, path)
    text = draft_entry(options, folder)
    new = append_entry(path, text)
    entry = new.models[-1]
    if not _passes(settings, new, entry, ()):
        sys.stderr.write(f"models: the model failed its check; {path} is unchanged\n")
        return 1
    # Replace the file in one step: a service that reads it meanwhile reads the old or the new one.
    beside = path.with_suffix(".new")
    beside.write_text(f"{path.read_text(encoding='utf-8').rstrip()}\n\n{text}", encoding="utf-8")
    beside.replace(path)
    _say(f"{entry.id} added to {path}", "restart the API and the workers to use the model")
    return 0


def _passes(
    settings: WorkerSettings,
    catalogue: Catalogue,
    entry: ModelEntry,
    sizes: Sequence[tuple[int, int]],
) -> bool:
    """Load and test a model and print its results. Return False if its entry does not fit."""
    import torch  # noqa: PLC0415 - seconds, which `list` need not wait for

    from worker.engine.model_pool import load_model  # noqa: PLC0415
    from worker.engine.process import quiet  # noqa: PLC0415

    quiet()
    torch.set_num_threads(settings.threads)
    config = EngineConfig(
        catalogue=catalogue,
        threads=settings.threads,
        memory_bytes=settings.memory_mb * MB if settings.memory_mb else None,
        state_dir=settings.state_dir,
        device=settings.device,
        self_test=settings.self_test,
    )
    try:
        model = load_model(entry, config)
        if unfit := [name for name in entry.legal_samplers if name not in model.samplers.names]:
            raise SettingsError(_misfits(entry, unfit))
        default = (entry.defaults.width, entry.defaults.height)
        _say(entry.id, f"{type(model.pipeline).__name__}, profile {model.profile.name}")
        _say("  loads in", f"{model.load_s:.1f} s, {model.weight_bytes / MB:.0f} MB of weights")
        for width, height in dict.fromkeys([default, *sizes]):
            verdict = model.promises.at(width, height)
            lanes = ", ".join(map(str, verdict.lanes.widths))
            _say(
                f"  {width}x{height}",
                f"{verdict.reproducibility}; lanes of {lanes} rows, cap {verdict.cap_rows}, "
                f"{verdict.rows_per_s:.3g} rows/s",
            )
        _say("  samplers", ", ".join(entry.legal_samplers))
        for shown in _extras(catalogue, entry):
            _say(*shown)
        model.close()
    except PrintworksError as error:
        sys.stderr.write(f"models: {entry.id}: {error}\n")
        return False
    return True


def _misfits(entry: ModelEntry, unfit: Sequence[str]) -> str:
    fits = ", ".join(f'"{name}"' for name in entry.legal_samplers if name not in unfit)
    advice = f"write samplers = [{fits}]" if fits else "check the entry's `prediction`"
    return f"the entry offers samplers that do not fit the model ({', '.join(unfit)}); {advice}"


def _extras(catalogue: Catalogue, entry: ModelEntry) -> Iterator[tuple[str, str]]:
    if (lora_folder := catalogue.loras_of(entry)) is not None:
        named = [f"{file.name}@{file.digest[:12]}" for file in lora_folder.files()]
        yield "  LoRAs", ", ".join(named) or f"none in {Path(entry.loras or '')}"
    if entry.controls:
        yield "  controls", ", ".join(entry.controls)


def _say(what: str, text: str) -> None:
    sys.stdout.write(f"{what:<16} {text}\n")
    sys.stdout.flush()
