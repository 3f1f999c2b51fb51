"""The request of a command line: values of options, as the API's fields.

Owns the readings of option values that are not the API's own: files, NAME:WEIGHT, NAME=VALUE.
Must not know commands. Invariant: a value that cannot be read ends in a usage error before
anything is sent.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import typer

from printworks.client import Client
from printworks.types import JobOptions

SUFFIX_FORMATS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
STDOUT = Path("-")


def prompt_of(words: str) -> str:
    """Return the prompt; `-` reads it from stdin."""
    return sys.stdin.read().strip() if words == "-" else words


def seed_of(text: str | None) -> int | list[int] | None:
    """Return one seed, or a list of them for `1,2,3`."""
    if text is None:
        return None
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"--seed {text}: a number, or several with commas") from None
    return seeds if len(seeds) > 1 else seeds[0]


def loras_of(choices: Sequence[str]) -> list[dict[str, Any]] | None:
    """Return the LoRA adapters of `NAME` and `NAME:WEIGHT`."""
    made: list[dict[str, Any]] = []
    for choice in choices:
        name, colon, weight = choice.rpartition(":")
        try:
            made.append({"name": name, "scale": float(weight)} if colon else {"name": choice})
        except ValueError:
            raise typer.BadParameter(f"--lora {choice}: NAME, or NAME:WEIGHT") from None
    return made or None


def values_of(option: str, pairs: Sequence[str]) -> dict[str, Any]:
    """Return the values of `NAME=VALUE`; a value that is JSON is read as JSON, else as text."""
    made: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"{option} {pair}: NAME=VALUE")
        made[name] = value_of(value)
    return made


def value_of(text: str) -> Any:
    """Return JSON as its value, and anything else as text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def output_of(
    out: Path | None, form: str | None, quality: int | None, *, metadata: bool
) -> dict[str, Any] | None:
    """Return the output options: the format of `form`, or that of the file name `out`."""
    made: dict[str, Any] = {}
    wanted = form or _format_of(out)
    if wanted:
        made["format"] = wanted
    if quality is not None:
        made["quality"] = quality
    if not metadata:
        made["metadata"] = False
    return made or None


def _format_of(out: Path | None) -> str | None:
    if out is None or out == STDOUT or out.is_dir():
        return None
    suffix = out.suffix.lower()
    if suffix not in SUFFIX_FORMATS:
        known = ", ".join(SUFFIX_FORMATS)
        raise typer.BadParameter(f"{out}: the file name must end in {known} (or name a folder)")
    return SUFFIX_FORMATS[suffix]


def check_writable(out: Path | None) -> None:
    """Refuse a file name whose folder does not exist, before the image is paid for."""
    if out is None or out == STDOUT or out.is_dir():
        return
    if not out.parent.is_dir():
        raise typer.BadParameter(f"{out}: there is no folder {out.parent}; make it first")


def control_of(
    name: str | None, image: dict[str, str] | None, more: Mapping[str, float | None]
) -> dict[str, Any] | None:
    """Return the ControlNet options. Raises BadParameter unless a name comes with its image."""
    given = {key: value for key, value in more.items() if value is not None}
    if name is None and image is None and not given:
        return None
    if name is None or image is None:
        raise typer.BadParameter("--control and --control-image go together: give both")
    return {"name": name, "image": image, **given}


def sent(client: Client, picture: Path | None) -> dict[str, str] | None:
    """Upload a file of this machine as an input image; return a reference to the input image."""
    if picture is None:
        return None
    try:
        return {"input": client.upload(picture).id}
    except OSError as error:
        raise typer.BadParameter(f"{picture}: {error.strerror}") from None


def options_of(asked: Mapping[str, Any]) -> JobOptions:
    """Return the options that have a value; the service checks them."""
    return cast(JobOptions, {name: value for name, value in asked.items() if value is not None})
