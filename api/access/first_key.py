"""The first API key of a service, which cannot be created over HTTP.

Owns the file that holds the key, with mode 600. Must not know HTTP. Invariants: a service that has
live keys gets none; the file is written before the key is valid, so a valid key is never
lost; and of any number of processes that begin at once, all have the same key.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

from jobs.errors import PrintworksError
from jobs.store.api_keys import EVERYTHING, KeyStore, draw_secret, id_of, make_key

NAME = "first"


class NoFirstKey(PrintworksError):
    """No first key can be shown; the message gives the reason and the remedy."""

    code = "no_first_key"


async def first_key(store: KeyStore, file: Path) -> str:
    """Return the text of the first key, of every scope: the one in `file`, or a new one.

    Raises NoFirstKey if keys exist already, if the key in the file was revoked, or if the
    file cannot be read or written.
    """
    kept = _kept(file)
    if kept is None and await store.any():
        raise NoFirstKey("keys exist already, so none is created: see `python -m api keys list`")
    secret = kept or _keep(file, draw_secret())
    if await store.get(id_of(secret)) is None:  # new, or Redis has lost its data
        await _add(store, secret)
    if await store.find(secret) is None:
        raise NoFirstKey(
            f"the key in {file} was revoked or has expired: create another with `python -m api keys"
            f" create --scope admin`; remove {file} to stop this message"
        )
    return secret


async def _add(store: KeyStore, secret: str) -> None:
    new = make_key(tenant="default", name=NAME, scopes=EVERYTHING, secret=secret)
    with suppress(ValueError):  # another process was first, with the same key
        await store.add(new.key)


def _kept(file: Path) -> str | None:
    try:
        text = file.read_text(encoding="utf-8").strip()
        id_of(text)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise NoFirstKey(f"{file} cannot be read as a key: {error}") from None
    return text


def _keep(file: Path, secret: str) -> str:
    """Write the key's file, mode 600; return the key, or the one another process just wrote."""
    draft = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
            out.write(secret + "\n")
            out.flush()
            os.fsync(out.fileno())
        with suppress(FileExistsError):
            os.link(draft, file)  # a rename would replace an existing file
        draft.unlink()
    except OSError as error:
        raise NoFirstKey(f"{file} cannot be written: {error}") from None
    kept = _kept(file)
    if kept is None:
        raise NoFirstKey(f"{file} was removed while it was written: run the command again")
    return kept
