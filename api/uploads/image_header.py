"""Header and structure of an image file, read before any decoder: format, size, scans, parts.

Owns minimal parsers of three formats. Pure, and linear in the file. The reason: WebP's decoder
allocates two canvases when a file is opened, before their size can be checked (16383
x 16383: 2 GB); and each scan of a progressive JPEG passes over the whole image (20,000 scans in
286 kB: 20 s).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import Literal, NamedTuple

Kind = Literal["png", "jpeg", "webp"]
_JPEG_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # start of frame; not DHT, JPG, DAC
_JPEG_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})  # markers without a length
_JPEG_SCAN, _JPEG_END = 0xDA, 0xD9
# the next marker: not a stuffed byte, a fill byte or a restart in the pixels of a scan
_JPEG_NEXT = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
MAX_SCANS = 100  # encoders write 1 to 20
MAX_PARTS = (
    20_000  # chunks or segments: of 10 MiB, as many as an encoder writes with 512 bytes each
)


class ImageHeader(NamedTuple):
    """Format and size read from the file header; sides in px."""

    kind: Kind
    width: int
    height: int


def declared(data: bytes) -> ImageHeader | None:
    """Read format and size; None: no PNG, JPEG or WebP, or one cut off before its size."""
    try:
        if data.startswith(b"\x89PNG\r\n\x1a\n") and data[12:16] == b"IHDR":
            return ImageHeader("png", *struct.unpack(">II", data[16:24]))
        if data.startswith(b"\xff\xd8\xff"):
            return _jpeg(data)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp(data)
    except (struct.error, IndexError):
        return None
    return None


def _jpeg(data: bytes) -> ImageHeader | None:
    at = 2
    while data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
        elif marker in _JPEG_ALONE:
            at += 2
        elif marker in _JPEG_SIZES:
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return ImageHeader("jpeg", width, height)
        else:
            at += 2 + struct.unpack(">H", data[at + 2 : at + 4])[0]
    return None


def _webp(data: bytes) -> ImageHeader | None:
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
    return ImageHeader("webp", width, height)


def overdone(data: bytes) -> str | None:
    """Return the reason why a file costs too much to decode for its size, or None."""
    scans = 0
    for parts, part in enumerate(_parts(data), start=1):
        scans += part == _JPEG_SCAN
        if scans > MAX_SCANS:
            return f"the image has more than {MAX_SCANS} scans: save it again"
        if parts > MAX_PARTS:
            return f"the image file has more than {MAX_PARTS} parts: save it again"
    return None


def _parts(data: bytes) -> Iterator[int]:
    """Yield the markers of a JPEG, or a 0 for each chunk of a PNG or WebP."""
    if data.startswith(b"\xff\xd8"):
        yield from _jpeg_markers(data)
    elif data.startswith(b"RIFF"):
        yield from _chunks(data, first=12, head=8, order="<", length_at=4, even=True)
    else:
        yield from _chunks(data, first=8, head=12, order=">", length_at=0, even=False)


def _jpeg_markers(data: bytes) -> Iterator[int]:
    at = 2
    while found := _JPEG_NEXT.search(data, at):
        marker, at = data[found.end() - 1], found.end()
        if marker == _JPEG_END:  # behind it is another file: an MPO's second image
            return
        yield marker
        if marker not in _JPEG_ALONE and len(data) >= at + 2:
            at += struct.unpack(">H", data[at : at + 2])[0]


def _chunks(
    data: bytes, *, first: int, head: int, order: str, length_at: int, even: bool
) -> Iterator[int]:
    """Yield a 0 per chunk. `head`: bytes of a chunk besides its data; `even`: data are padded."""
    at = first
    while at + length_at + 4 <= len(data):
        length = struct.unpack_from(f"{order}I", data, at + length_at)[0]
        at += head + length + (length % 2 if even else 0)
        yield 0
