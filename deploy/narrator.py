"""The output of pip and uv as one short progress line: the package, and the amount so far.

Owns the patterns of their output, and the sums. Knows nothing of the caller.
"""

from __future__ import annotations

import re

_COLLECTING = re.compile(r"\s*Collecting ([A-Za-z0-9][A-Za-z0-9._-]*)")
_FETCHING = re.compile(r"\s*(?:Downloading|Using cached) (\S+) \(([\d.]+) ?([kKMG]?i?)B\)")
_UNPACKING = re.compile(r"Installing collected packages: (.+)")
_UV_DONE = re.compile(r"Installed (\d+) packages? in")
_MEGABYTES = {"": 1e-6, "k": 1e-3, "K": 1e-3, "M": 1.0, "G": 1e3}


class Narrator:
    """A reader of an installer's lines, which counts packages and megabytes."""

    def __init__(self) -> None:
        self._met: set[str] = set()
        self.megabytes = 0.0  # downloaded, or taken from the installer's cache
        self.installed = 0

    @property
    def so_far(self) -> str:
        """Return the amount so far, such as "34 packages, 120 MB"."""
        return f"{_counted(len(self._met))}, {self.megabytes:.0f} MB"

    def hear(self, line: str) -> str | None:
        """Return the current step, if `line` names a new step, else None."""
        if collecting := _COLLECTING.match(line):
            self._met.add(_canonical(collecting[1]))
            return f"collecting {collecting[1]}"
        if fetching := _FETCHING.match(line):
            return self._fetching(*fetching.groups())
        if unpacking := _UNPACKING.match(line):
            count = len(unpacking[1].split(","))
            self.installed += count
            return f"unpacking {_counted(count)}"
        if done := _UV_DONE.match(line):
            self.installed += int(done[1])
        return None

    def _fetching(self, file: str, size: str, unit: str) -> str | None:
        self.megabytes += float(size) * _MEGABYTES[unit[:1]]
        if file.endswith(".metadata"):
            return None
        name = _package(file)
        self._met.add(_canonical(name))
        return f"downloading {name} ({size} {unit[:1]}B)"


def _package(file: str) -> str:
    """Return the package that a wheel, an archive or (uv) a bare name stands for.

    A wheel writes `-` of a name as `_`; an archive's version begins with the last `-` and a digit.
    """
    file = file.rsplit("/", 1)[-1]
    if file.endswith(".whl"):
        return file.split("-", 1)[0].replace("_", "-")
    return re.sub(r"-\d[^-]*\.(tar\.gz|zip)$", "", file)


def _counted(packages: int) -> str:
    return "1 package" if packages == 1 else f"{packages} packages"


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
