"""What the first bytes of a picture declare: format and size, read before any decoder is.

Owns a few lines of three formats. Pure. Why it is needed: WebP's decoder takes two canvases of
memory when a file is opened, before anybody can ask how large they are (16383 x 16383: 2 GB).
"""

from __future__ import annotations

import struct
from typing import Literal, NamedTuple

Kind = Literal["png", "jpeg", "webp"]
_JPEG_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # start of frame; not DHT, JPG, DAC
_JPEG_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})  # markers without a length


class Declared(NamedTuple):
    """A file's own word about itself; sides in px."""

    kind: Kind
    width: int
    height: int


def declared(data: bytes) -> Declared | None:
    """Format and size, or None: no PNG, JPEG or WebP, or one that is cut off before its size."""
    try:
        if data.startswith(b"\x89PNG\r\n\x1a\n") and data[12:16] == b"IHDR":
            return Declared("png", *struct.unpack(">II", data[16:24]))
        if data.startswith(b"\xff\xd8\xff"):
            return _jpeg(data)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp(data)
    except (struct.error, IndexError):
        return None
    return None


def _jpeg(data: bytes) -> Declared | None:
    at = 2
    while data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
        elif marker in _JPEG_ALONE:
            at += 2
        elif marker in _JPEG_SIZES:
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return Declared("jpeg", width, height)
        else:
            at += 2 + struct.unpack(">H", data[at + 2 : at + 4])[0]
    return None


def _webp(data: bytes) -> Declared | None:
    match data[12:16]:
        case b"VP8X":
            sides = data[24:27], data[27:30]
            width, height = (int.from_bytes(side, "little") + 1 for side in sides)
        case b"VP8L":
            bits = struct.unpack("<I", data[21:25])[0]
            width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case b"VP8 ":
            width, height = (side & 0x3FFF for side in struct.unpack("<HH", data[26:30]))
        case _:
            return None
    return Declared("webp", width, height)
