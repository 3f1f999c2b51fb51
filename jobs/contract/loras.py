"""LoRA adapters of a model: the files of one folder that a request may name.

Owns the listing of the folder as frozen values: safetensors only, plain names only, and no links
that lead out of the folder. Knows no torch. Invariant: a name from a client is only ever compared
with the listed names, never made into a path.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
SUFFIX = ".safetensors"


@dataclass(frozen=True, slots=True)
class LoraFile:
    """An adapter file. `digest`: SHA-256 of its bytes, as hex."""

    name: str
    path: Path
    size_bytes: int
    digest: str


class LoraFolder:
    """Adapters in one folder: listed anew at every call, hashed only after a file has changed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._digests: dict[Path, tuple[tuple[int, ...], str]] = {}

    def names(self) -> tuple[str, ...]:
        """Return the names that a request may use, sorted."""
        return tuple(sorted(self._files()))

    def files(self) -> tuple[LoraFile, ...]:
        """Return all adapters with their digests; reads every new file whole."""
        found = (self.find(name) for name in self.names())
        return tuple(file for file in found if file is not None)

    def find(self, name: str) -> LoraFile | None:
        """Return the adapter called `name`, or None."""
        path = self._files().get(name)
        try:
            return None if path is None else self._hashed(name, path)
        except OSError:
            return None  # the file was removed meanwhile

    def noted(self, name: str) -> bool:
        """Return True if `find` needs to read no file: the digest is known, or there is no file."""
        path = self._files().get(name)
        try:
            return path is None or self._known(path) is not None
        except OSError:
            return True  # the file was removed meanwhile

    def _files(self) -> dict[str, Path]:
        try:
            there = list(self._folder.iterdir())
        except OSError:
            return {}
        home = self._folder.resolve()
        return {
            path.stem: path
            for path in there
            # A link that leads out of this folder is not listed, whatever its name.
            if path.suffix == SUFFIX
            and NAME.fullmatch(path.stem)
            and path.is_file()
            and path.resolve().parent == home
        }

    def _hashed(self, name: str, path: Path) -> LoraFile:
        stat = path.stat()
        digest = self._known(path)
        if digest is None:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            self._digests[path] = _version(stat), digest
            for gone in self._digests.keys() - {*self._files().values()}:
                del self._digests[gone]
        return LoraFile(name, path, stat.st_size, digest)

    def _known(self, path: Path) -> str | None:
        known = self._digests.get(path)
        return known[1] if known is not None and known[0] == _version(path.stat()) else None


def _version(stat: os.stat_result) -> tuple[int, ...]:
    """Return a value that changes when a file is written or replaced; `touch` cannot set ctime."""
    return stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino


@cache
def shelf_at(folder: Path) -> LoraFolder:
    """Return the folder's `LoraFolder`, one a process, so that a file is hashed once."""
    return LoraFolder(folder)
