"""Input images of jobs: their IDs, keys in object storage and lifetime.

Owns the ID of an input (size and SHA-256 of its pixels: equal images are one input) and the rule
of its life: an input stays while anything holds it: the upload for a limited time, a job until its
record is deleted. Knows no connection and no decoder. Invariant: the pixels behind an ID never
change.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

UPLOAD = "upload"  # the hold of the upload itself; every other hold is a job's, by job ID
KEEP_S = 40 * 86_400  # > the longest deadline and the longest retention, one after the other
GUARD_S = 600  # bytes that were stored but never registered are erased after this
INPUT_ID = re.compile(r"([1-9]\d{0,4})x([1-9]\d{0,4})-([0-9a-f]{64})")
CONTENT_TYPE = "image/png"  # whatever the upload's format: only its pixels are stored


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """A stored input image: 8-bit RGB, as a PNG without metadata under `blob`."""

    id: str
    blob: str  # the random part of the storage key: an erased key is never used again
    changes: tuple[str, ...]  # what decoding changed beyond unpacking: orientation, palette ...
    kept_until: float  # Redis time, s: when the upload's own hold ends


def input_id(width: int, height: int, pixels: bytes) -> str:
    """Return an input's ID: `128x96-` and the SHA-256 of its RGB bytes, row by row."""
    return f"{width}x{height}-{hashlib.sha256(pixels).hexdigest()}"


def is_input_id(text: str) -> bool:
    """Return True if `text` has the form of an input ID."""
    return INPUT_ID.fullmatch(text) is not None


def size_of(an_id: str) -> tuple[int, int]:
    """Return (width, height) in px of the input with the ID `an_id`."""
    match = INPUT_ID.fullmatch(an_id)
    assert match, "an input's ID"
    return int(match[1]), int(match[2])


def sha256_of(an_id: str) -> str:
    """Return the SHA-256 of an input's RGB bytes, hex: as `pixel_sha256` of a job's images."""
    return an_id.rpartition("-")[2]


def input_blob_key(member: str) -> str:
    """Return the object storage key of `member`: `tenant/id/name`, as the scripts write it."""
    return f"inputs/{member}.png"


def steps_taken(steps: int, strength: float | None) -> int:
    """Return the steps that run of `steps`: with an input image only the last part.

    Counts as diffusers' `get_timesteps`; some families round up, which is one step more at most.
    """
    return steps if strength is None else max(1, min(steps, int(steps * strength)))
