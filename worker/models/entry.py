"""Writes a model file entry from the model's own configuration files.

Owns finding the model (a folder, or a Hugging Face commit downloaded as safetensors) and the
entry's TOML. Knows no torch: the configuration files that every diffusers model has are enough.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jobs.contract.model_file import Catalogue, load_catalogue
from jobs.contract.samplers import SAMPLERS, Prediction, samplers_for
from jobs.errors import SettingsError

# Weights as safetensors only, and no Python: a repository's code is never run.
PATTERNS = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewModelOptions:
    """Options of `models add`, as the operator typed them."""

    source: str
    id: str
    title: str = ""
    revision: str | None = None
    variant: str | None = None
    dtype: str = "float32"
    resident: bool = True


def fetch_model(options: NewModelOptions, model_file: Path) -> tuple[Path, NewModelOptions]:
    """Return the model's folder on this machine, and the options with source and revision pinned.

    Raises SettingsError if there is no such folder and the Hugging Face Hub has no such model or
    is unreachable.
    """
    for folder in (Path(options.source), model_file.parent / options.source):
        if (folder / "model_index.json").is_file():
            return folder, replace(options, source=_relative(folder, model_file), revision=None)
    if Path(options.source).exists():
        raise SettingsError(
            f"{options.source} has no model_index.json: it is not a diffusers model; give the"
            " folder of one"
        )
    return _downloaded(options)


def draft_entry(options: NewModelOptions, folder: Path) -> str:
    """Return the entry as TOML, with defaults and limits from the model's own configuration."""
    prediction = _prediction(_read(folder / "scheduler" / "scheduler_config.json"))
    side, multiple = _sides(folder)
    sampler = samplers_for(prediction)[0]
    facts: dict[str, Any] = {
        "id": options.id,
        "title": options.title,
        "source": options.source,
        "revision": options.revision,
        "prediction": prediction,
        "dtype": options.dtype,
        "variant": options.variant,
    }
    lines = ["[[model]]", *(_line(k, v) for k, v in facts.items() if v)]
    if not options.resident:
        lines.append("resident = false")
    lines += ["", "[model.defaults]", f"width = {side}", f"height = {side}"]
    lines += [f"steps = {min(25, SAMPLERS[sampler].max_steps)}", _line("sampler", sampler)]
    lines += ["", "[model.limits]", f"min_side = {max(8, multiple, side // 4)}"]
    lines += [f"max_side = {2 * side}", f"side_multiple = {multiple}"]
    return "\n".join([*lines, f"max_pixels = {2 * side * side}"]) + "\n"


def append_entry(model_file: Path, text: str) -> Catalogue:
    """Return the catalogue with this entry added. Raises SettingsError if the entry is invalid."""
    before = model_file.read_text(encoding="utf-8") if model_file.is_file() else ""
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / model_file.name
        draft.write_text(f"{before.rstrip()}\n\n{text}", encoding="utf-8")
        try:
            return load_catalogue(draft).model_copy(update={"folder": model_file.parent})
        except SettingsError as error:
            raise SettingsError(str(error).replace(str(draft), str(model_file))) from error


def _relative(folder: Path, model_file: Path) -> str:
    home, there = model_file.parent.resolve(), folder.resolve()
    return str(there.relative_to(home) if there.is_relative_to(home) else there)


def _downloaded(options: NewModelOptions) -> tuple[Path, NewModelOptions]:
    from huggingface_hub import HfApi, snapshot_download  # noqa: PLC0415 - the worker's extra
    from huggingface_hub.errors import HfHubHTTPError  # noqa: PLC0415

    try:
        info = HfApi().model_info(options.source, revision=options.revision, timeout=20)
        names = [file.rfilename for file in info.siblings or []]
        if "model_index.json" not in names:
            raise SettingsError(f"{options.source} has no model_index.json: not a diffusers model")
        if not any(name.endswith(".safetensors") for name in names):
            raise SettingsError(f"{options.source} has no safetensors files; no other kind is read")
        where = snapshot_download(options.source, revision=info.sha, allow_patterns=PATTERNS)
    except SettingsError:
        raise
    except HfHubHTTPError as error:
        raise SettingsError(
            f"the Hugging Face Hub refuses {options.source!r}: {error}; check the name, the"
            " revision and HF_TOKEN"
        ) from error
    except Exception as error:  # the hub's clients raise their own errors without a connection
        raise SettingsError(
            f"{options.source!r} is not a folder, and the Hugging Face Hub is unreachable "
            f"({type(error).__name__}). Give a folder with a model_index.json"
        ) from error
    return Path(where), replace(options, revision=info.sha)


def _prediction(sampler: dict[str, Any]) -> Prediction:
    flow = str(sampler.get("_class_name", "")).startswith("FlowMatch")
    if flow or sampler.get("prediction_type") == "flow_prediction":
        return "flow"
    return "edm" if "sigma_data" in sampler else "diffusion"


def _sides(folder: Path) -> tuple[int, int]:
    """Return the trained side length and the step that sides are multiples of, both in px."""
    network = _read(folder / "unet" / "config.json") or _read(folder / "transformer/config.json")
    vae = _read(folder / "vae" / "config.json")
    blocks = vae.get("block_out_channels") or vae.get("encoder_block_out_channels") or [0] * 4
    scale = 2 ** (len(blocks) - 1)
    sample = network.get("sample_size")
    side = sample * scale if isinstance(sample, int) else 1024
    # A UNet halves its latents at every block but the last; transformers join them two by two.
    halvings = max(1, len(network.get("block_out_channels", [0, 0])) - 1)
    multiple = scale * 2**halvings
    return max(multiple, side // multiple * multiple), multiple


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path}: {error}") from error


def _line(name: str, text: str) -> str:
    return f"{name} = {json.dumps(text)}"  # a JSON string is a TOML basic string
