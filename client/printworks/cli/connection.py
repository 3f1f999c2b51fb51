"""The command line's connection: the service's address, and the exit code of each error.

Owns the order of the addresses: --url, PRINTWORKS_URL, a running `python3 deploy up` (its
up.json), port 8000.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import typer

from printworks.client import Client
from printworks.errors import (
    ApiError,
    Busy,
    InvalidRequest,
    JobNotSucceeded,
    NotAllowed,
    NotFound,
    PrintworksError,
    Unreachable,
    WaitTimeout,
)
from printworks.protocol import DEFAULT_URL

UP_FILE = Path("data", "up.json")
EXIT_CODES: dict[type[PrintworksError], int] = {
    JobNotSucceeded: 1,
    InvalidRequest: 2,
    Unreachable: 3,
    WaitTimeout: 4,
    NotAllowed: 5,
    NotFound: 6,
    Busy: 7,
    ApiError: 8,
}


@dataclass(frozen=True)
class Options:
    """The options that every command shares."""

    url: str | None
    key: str | None
    as_json: bool = False


def connect(options: Options) -> Client:
    """Return a client of the service that the options, or a running `up`, name."""
    url, key = options.url, options.key
    if url is None and (running := _running_up()):
        url, key = running[0], key or running[1]
    return Client(url or DEFAULT_URL, key)


def _running_up() -> tuple[str, str | None] | None:
    """Return URL and key of the `deploy up` of this folder, a parent, or the client's own clone."""
    for folder in _folders():
        # no such file, another user's, or not written by `up`
        with suppress(OSError, ValueError, KeyError, TypeError):
            up_json = json.loads((folder / UP_FILE).read_text())
            return str(up_json["api_url"]), up_json["api_key"]
    return None


def _folders() -> Iterator[Path]:
    here = Path.cwd()
    yield from (here, *here.parents)
    yield Path(__file__).resolve().parents[3]  # of an editable installation: the repository


@contextmanager
def reported(options: Options) -> Generator[None]:
    """End the program with the message and exit code of any PrintworksError."""
    try:
        yield
    except PrintworksError as error:
        fail(error, options)


def fail(error: PrintworksError, options: Options) -> NoReturn:
    """Print the error on stderr, and end the program with the error's exit code."""
    code = next(EXIT_CODES[kind] for kind in type(error).__mro__ if kind in EXIT_CODES)
    if options.as_json:
        print(json.dumps({"error": _as_json(error), "exit_code": code}), file=sys.stderr)
    else:
        print(f"printworks: {error}{_advice(error)}", file=sys.stderr)
    raise typer.Exit(code)


def _as_json(error: PrintworksError) -> dict[str, object]:
    shown: dict[str, object] = {"type": type(error).__name__, "message": str(error)}
    if isinstance(error, ApiError):
        problems = [problem.model_dump() for problem in error.problems]
        shown |= {"code": error.code, "request_id": error.request_id, "problems": problems}
    if isinstance(error, JobNotSucceeded | WaitTimeout):
        shown |= {"job": error.job.model_dump(mode="json")}
    return shown


def _advice(error: PrintworksError) -> str:
    """Return what to do next; empty where the error's message says so already."""
    if isinstance(error, Unreachable):
        named = os.environ.get("PRINTWORKS_URL")
        where = " (from PRINTWORKS_URL)" if named else ""
        return f"{where}\nStart a service with `python3 deploy up`, or give its address with --url."
    if isinstance(error, NotAllowed):
        return "\nGive an API key that may do this with --key or PRINTWORKS_KEY."
    if isinstance(error, WaitTimeout):
        return f"; to wait longer: printworks jobs {error.job.id} --wait"
    return ""
