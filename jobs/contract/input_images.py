"""Pictures that jobs begin with: how one is named, where its bytes are, who still holds it.

Owns the ID of an input (size and SHA-256 of its pixels: equal pictures are one input) and the rule
of its life: it stays while anything holds it, an upload for a while, a job until its record goes.
Knows no connection and no decoder. Invariant: the pixels behind an ID never change.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

UPLOAD = "upload"  # the hold of whoever sent it; every other hold is a job's, by its ID
KEEP_S = 40 * 86_400  # > the longest deadline and the longest retention, one after the other
GUARD_S = 600  # bytes that were stored but never registered are erased after this
INPUT_ID = re.compile(r"([1-9]\d{0,4})x([1-9]\d{0,4})-([0-9a-f]{64})")
CONTENT_TYPE = "image/png"  # whatever was sent: stored are its pixels, and nothing else of it


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """A stored picture: 8-bit RGB, as a PNG without metadata under `blob`."""

    id: str
    blob: str  # the random part of its key: a name erased once is never used again
    changes: tuple[str, ...]  # what decoding changed beyond unpacking: orientation, palette ...
    kept_until: float  # Redis time, s: when the upload's own hold ends


def input_id(width: int, height: int, pixels: bytes) -> str:
    """The name of a picture: `128x96-` and the SHA-256 of its RGB bytes, row by row."""
    return f"{width}x{height}-{hashlib.sha256(pixels).hexdigest()}"


def is_input_id(text: str) -> bool:
    """Whether it could be the ID of an input."""
    return INPUT_ID.fullmatch(text) is not None


def size_of(an_id: str) -> tuple[int, int]:
    """(width, height) in px of the picture with that ID."""
    match = INPUT_ID.fullmatch(an_id)
    assert match, "an input's ID"
    return int(match[1]), int(match[2])


def sha256_of(an_id: str) -> str:
    """SHA-256 of its RGB bytes, hex: comparable with `pixel_sha256` of a job's images."""
    return an_id.rpartition("-")[2]


def input_blob_key(member: str) -> str:
    """The key in the picture store of `tenant/id/name`, as the scripts write it."""
    return f"inputs/{member}.png"


def steps_taken(steps: int, strength: float | None) -> int:
    """Steps really taken of `steps`, beginning with a picture: the last part of them.

    As diffusers' `get_timesteps` counts; some families round up, which is one step more at most.
    """
    return steps if strength is None else max(1, min(steps, int(steps * strength)))
