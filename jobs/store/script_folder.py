"""Load Lua scripts from a folder: join what they share, fill in constants, name them by SHA-1.

Owns the `uses:` line of a .lua file and its @CONSTANTS@. Knows no script, no key and no connection:
each folder's owner (jobs/store/scripts, jobs/webhooks/scripts) gives the constants of its files.
Invariant: a number that Lua and Python share stands once, in Python; a file with a constant that
has no value is refused when its folder is opened, so at start.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_USES = re.compile(r"^-- uses: ([a-z_, ]+)$", re.MULTILINE)
_CONSTANT = re.compile(r"@(\w+)@")


@dataclass(frozen=True, slots=True)
class Script:
    """One command: its source as Redis gets it, and the SHA-1 by which it is called."""

    name: str
    text: str
    sha: str


class ScriptFolder:
    """The .lua files of one folder; `base`: a folder whose files they may use, too."""

    def __init__(
        self, path: Path, constants: Mapping[str, object], *, base: ScriptFolder | None = None
    ) -> None:
        """Read all files. Raises LookupError where a constant has no value."""
        self._base = base
        self._texts = {p.stem: _filled(p, constants) for p in sorted(path.glob("*.lua"))}
        self._loaded: dict[str, Script] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """All files of this folder without .lua, those that others only use among them."""
        return tuple(self._texts)

    def load(self, name: str) -> Script:
        """Return the script in `name`.lua, after the files that it uses."""
        if name not in self._loaded:
            text = "\n".join(text for _, text in self.parts(name))
            sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
            self._loaded[name] = Script(name, text, sha)
        return self._loaded[name]

    def parts(self, name: str) -> list[tuple[str, str]]:
        """Return the files of a script in their order, each once and itself last: name, text."""
        return self._with_used(name, set())

    def _with_used(self, name: str, taken: set[str]) -> list[tuple[str, str]]:
        taken.add(name)
        own = self._text_of(name)
        used = _USES.search(own)
        names = [part.strip() for part in used[1].split(",")] if used else []
        before = [p for n in names if n not in taken for p in self._with_used(n, taken)]
        return [*before, (name, own)]

    def _text_of(self, name: str) -> str:
        if name in self._texts or self._base is None:
            return self._texts[name]
        return self._base._text_of(name)


def _filled(path: Path, constants: Mapping[str, object]) -> str:
    def value(match: re.Match[str]) -> str:
        if match[1] not in constants:
            raise LookupError(f"{path}: no value for @{match[1]}@; give it in its folder's Python")
        return str(constants[match[1]])

    return _CONSTANT.sub(value, path.read_text(encoding="utf-8"))
