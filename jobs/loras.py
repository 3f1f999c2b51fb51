"""The LoRA adapters of a model: which files of its folder a request may name.

Owns the listing of one folder as frozen values: safetensors only, plain names only, and nothing
that leads out of it. Knows no torch. Invariant: a name given by a client is only ever compared
with the names found here, never made into a path.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
SUFFIX = ".safetensors"


@dataclass(frozen=True, slots=True)
class LoraFile:
    """One adapter file. `digest`: SHA-256 of its bytes, as hex."""

    name: str
    path: Path
    size_bytes: int
    digest: str


class LoraShelf:
    """The adapters in one folder, looked at anew at every call, hashed only when a file changed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._digests: dict[Path, tuple[tuple[int, int], str]] = {}

    def names(self) -> tuple[str, ...]:
        """What may be named, in order."""
        return tuple(sorted(self._files()))

    def files(self) -> tuple[LoraFile, ...]:
        """All of them with their digests: reads every new file whole."""
        found = (self.find(name) for name in self.names())
        return tuple(file for file in found if file is not None)

    def find(self, name: str) -> LoraFile | None:
        """One of them, or None."""
        path = self._files().get(name)
        try:
            return None if path is None else self._hashed(name, path)
        except OSError:
            return None  # it went away meanwhile

    def _files(self) -> dict[str, Path]:
        try:
            there = list(self._folder.iterdir())
        except OSError:
            return {}
        home = self._folder.resolve()
        return {
            path.stem: path
            for path in there
            # A link that leads elsewhere is not of this folder, whatever it is called.
            if path.suffix == SUFFIX
            and NAME.fullmatch(path.stem)
            and path.is_file()
            and path.resolve().parent == home
        }

    def _hashed(self, name: str, path: Path) -> LoraFile:
        stat = path.stat()
        version = (stat.st_mtime_ns, stat.st_size)
        known = self._digests.get(path)
        if known is None or known[0] != version:
            with path.open("rb") as file:
                known = version, hashlib.file_digest(file, "sha256").hexdigest()
            self._digests[path] = known
        return LoraFile(name, path, stat.st_size, known[1])


@cache
def shelf_at(folder: Path) -> LoraShelf:
    """The shelf of a folder, one a process: a digest is found once, not at every listing."""
    return LoraShelf(folder)
