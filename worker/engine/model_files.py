"""A model's files: the list of those read, their memory, a digest of their bytes.

Owns the reading of folders by diffusers' rules: the parts that the index names, safetensors, and
of those one variant. Knows no pipeline. Invariant: whatever is read of a folder is in its digest,
byte for byte; a digest is taken from the notes only while path, size, times and inode agree.

The cost is SHA-256 of everything, at 1 to 2 GB/s a core: 0.2 s for the demo, some 5 s for SDXL in
float16, 20 s for Flux.1, once a file and machine. With a `state_dir` it is noted there and not
paid again before a file changes. Headers alone would not do: a merged LoRA or the next epoch of a
training run changes no header.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

log = logging.getLogger(__name__)

INDEX = "model_index.json"
WEIGHTS = ".safetensors"
# What no loader here reads: other formats of weights, and what is for people.
UNREAD = frozenset(
    {".bin", ".ckpt", ".pt", ".pth", ".msgpack", ".h5", ".onnx", ".pb", ".gguf", ".xml"}
    | {".md", ".png", ".jpg", ".jpeg", ".webp", ".gif", ".pdf"}
)
# name[.variant][-00001-of-00003][.variant].safetensors: hubs have shards of both orders
NAME = re.compile(r"[^.]+?(?:\.([\w-]+?))?(?:-\d{5}-of-\d{5})?(?:\.([\w-]+?))?\.safetensors")
ITEM_BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2}
KEPT = 4096  # notes of files, the last ones


def files_of(folder: Path, variant: str | None, left_out: Container[str] = ()) -> list[Path]:
    """Return the files that are read from a model's or a part's folder, sorted.

    `left_out`: parts that the family does not load.
    """
    parts = _parts(folder)
    if parts is None:
        return _read(folder, variant, folder.rglob("*"))
    found = [folder / INDEX]
    for part in parts:
        if part not in left_out and (folder / part).is_dir():
            found += _read(folder / part, variant, (folder / part).rglob("*"))
    return sorted(found)


def memory_of(files: Iterable[Path], item_bytes: int) -> int:
    """Return the bytes of the weights in these files, at `item_bytes` a number."""
    return sum(_numbers(path) * item_bytes for path in files if path.suffix == WEIGHTS)


class Digests:
    """SHA-256 of files, noted in `state_dir` (None: found anew by each process)."""

    def __init__(self, state_dir: Path | None) -> None:
        self._file = state_dir and state_dir / "digests.json"
        self._notes = self._load()

    def of(self, folder: Path, files: Sequence[Path]) -> str:
        """Return one hex digest of all these files, by name and content."""
        digest, known = hashlib.sha256(), dict(self._notes)
        for path in files:
            digest.update(f"{path.relative_to(folder)}:{self._one(path)};".encode())
        if self._notes != known:
            self._save()
        return digest.hexdigest()

    def _one(self, path: Path) -> str:
        stamp = stamp_of(path)
        at = str(path.absolute())
        known = self._notes.get(at)
        if known is None or known[:-1] != stamp:
            with path.open("rb") as file:
                known = [*stamp, hashlib.file_digest(file, "sha256").hexdigest()]
        self._notes.pop(at, None)
        self._notes[at] = known  # the last used come last
        return str(known[-1])

    def _load(self) -> dict[str, list[Any]]:
        try:
            kept: Any = json.loads(self._file.read_text()) if self._file else {}
        except (OSError, ValueError):
            return {}  # no notes yet, or torn ones: everything is read again
        sound = isinstance(kept, dict) and all(isinstance(v, list) and v for v in kept.values())
        return cast("dict[str, list[Any]]", kept) if sound else {}

    def _save(self) -> None:
        if self._file is None:
            return
        while len(self._notes) > KEPT:
            del self._notes[next(iter(self._notes))]
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            beside = self._file.with_suffix(".new")
            beside.write_text(json.dumps(self._notes))
            beside.replace(self._file)
        except OSError as error:  # a disk that is full costs the same reading next time
            log.warning("engine.digests_not_kept", extra={"error": str(error)})


def stamp_of(path: Path) -> list[int]:
    """Return size, times and inode, which change with a file; `touch` cannot set ctime."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def _parts(folder: Path) -> list[str] | None:
    """Return the parts that a pipeline's index names; None: no pipeline's folder."""
    try:
        index: Any = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        return []
    named = cast("Mapping[str, Any]", index if isinstance(index, dict) else {})
    return [name for name, kind in named.items() if isinstance(kind, list) and any(kind)]


def _read(root: Path, variant: str | None, paths: Iterable[Path]) -> list[Path]:
    """Of one part: all but what is never read, and of its weights one variant."""
    seen = [path for path in paths if path.suffix not in UNREAD and path.is_file()]
    plain = [path for path in seen if not _hidden(path.relative_to(root))]
    weights = {path: _variant_of(path) for path in plain if path.suffix == WEIGHTS}
    wanted = variant if variant in weights.values() else None
    return sorted(path for path in plain if weights.get(path, wanted) == wanted)


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _variant_of(path: Path) -> str | None:
    named = NAME.fullmatch(path.name)
    return (named[1] or named[2]) if named else None


def _numbers(path: Path) -> int:
    """Count the numbers in a file of weights, by its header."""
    try:
        return sum(_counted(path))
    except (OSError, ValueError, KeyError, TypeError):
        return path.stat().st_size // 4  # it will not load either, and that has words of its own


def _counted(path: Path) -> Iterator[int]:
    with path.open("rb") as file:
        header: Any = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    for name, tensor in header.items():
        if name != "__metadata__":
            yield math.prod(tensor["shape"])
