"""Image decoder: untrusted bytes to plain pixels, in a process of its own that may be killed.

Owns the accepted formats and the message of each refusal. Run as `python -m api.uploads.decoder
PIXELS`, driven over pipes by decoder_pool.py. Knows no HTTP and no store. Invariant: the result
is 8-bit RGB and nothing else of the file: no profile, no EXIF, no text, no trailing bytes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import json
import logging
import math
import resource
import struct
import sys
import warnings
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO

from PIL import Image, ImageOps, PngImagePlugin

from api.uploads.image_header import ImageHeader, declared, overdone

MAX_SIDE = 16_384  # px
PNG_LEVEL = 1  # 6 takes five times as long and saves a tenth of the bytes
_FORMATS = ("PNG", "JPEG", "WEBP")
_ORIENTATION = 0x0112
_BACKGROUND_ALPHA = 255
# Address space of this process: Python and Pillow, and the worst case per pixel (WebP's two
# canvases of 4 bytes, its copy, RGBA and RGB beside it, the PNG).
_BASE_BYTES, _BYTES_PER_PIXEL = 512 * 1024 * 1024, 32
# CPU seconds for one image: some five times the time of the slowest of its size, as measured.
# The kernel kills a process that needs more (SIGXCPU), whichever library runs in it.
_BASE_CPU_S, _CPU_S_PER_PIXEL = 2, 0.5e-6


class Refused(Exception):
    """An image was refused: `code` for programs, the message for people."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        super().__init__(message)


def decode(data: bytes, *, max_pixels: int, background: str | None = None) -> dict[str, Any]:
    """Decode an image to {width, height, pixel_sha256, changes, png}. Raises Refused.

    `background`: "#rrggbb" to lay transparent pixels on; without it transparency is refused, since
    no colour of ours would be the one that was meant.
    """
    picture, changes = _opened(data, max_pixels)
    with picture:
        turned = _turned(picture, changes)
        plain = _plain(turned, background, changes)
    return _packed(plain, changes)


def resize(data: bytes, *, width: int, height: int, how: str) -> dict[str, Any]:
    """Resize a PNG that this service wrote. `how`: cover (crop the middle) or stretch."""
    with Image.open(io.BytesIO(data), formats=("PNG",)) as picture:
        allow_cpu(picture.width * picture.height + width * height)
        method = Image.Resampling.LANCZOS
        if how == "cover":
            fitted = ImageOps.fit(picture, (width, height), method)
        else:
            fitted = picture.resize((width, height), method)
    return _packed(fitted, [f"resized_{how}"])


def from_base64(text: bytes) -> bytes:
    """Decode base64 or a `data:` URI; `\\/`, line breaks and missing `=` are accepted."""
    if text[:5].lower() == b"data:":
        head, comma, text = text.partition(b",")
        if not comma or not head.lower().endswith(b";base64"):
            raise Refused("invalid_data", "a data URI must be data:image/png;base64,...")
    text = text.replace(b"\\/", b"/").replace(b"\\n", b"").replace(b"\\r", b"")
    text = text.translate(bytes.maketrans(b"-_", b"+/"), b" \r\n\t")
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise Refused("invalid_data", "this is not base64 of an image") from None


def _opened(data: bytes, max_pixels: int) -> tuple[Image.Image, list[str]]:
    """Decode the image, once its declared size is within the limits."""
    said = _within_limits(data, max_pixels)
    allow_cpu(said.width * said.height)
    # PIL's own bound for text chunks and profiles is 64 MB in all: an image needs none of them
    PngImagePlugin.MAX_TEXT_MEMORY = PngImagePlugin.MAX_TEXT_CHUNK = 1024 * 1024
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            picture = Image.open(io.BytesIO(data), formats=_FORMATS)
            if picture.size != (said.width, said.height):
                raise Refused(
                    "unreadable", "the file's parts disagree about its size: save it again"
                )
            # phones send JPEGs with more images behind the first (MPO): the first is used
            if getattr(picture, "n_frames", 1) > 1 and picture.format != "MPO":
                raise Refused("animated", "the image is animated: send one frame")
            picture.load()
    except Refused:
        raise
    except Image.DecompressionBombError:
        raise Refused("too_many_pixels", f"at most {max_pixels} pixels per image") from None
    except (OSError, SyntaxError, ValueError, KeyError, IndexError, EOFError, TypeError) as error:
        raise Refused("unreadable", f"the image cannot be read: {_said(error)}") from None
    except (struct.error, zlib.error, OverflowError, AttributeError) as error:
        raise Refused("unreadable", f"the image cannot be read: {_said(error)}") from None
    return picture, ["profile_ignored"] if picture.info.get("icc_profile") else []


def _within_limits(data: bytes, max_pixels: int) -> ImageHeader:
    """Return the declared format and size. Raises Refused beyond the limits."""
    said = declared(data)
    if said is None:
        raise Refused("unknown_format", "send a PNG, JPEG or WebP image")
    if not (0 < said.width <= MAX_SIDE and 0 < said.height <= MAX_SIDE):
        raise Refused("too_many_pixels", f"sides must be from 1 to {MAX_SIDE} px")
    if said.width * said.height > max_pixels:
        raise Refused(
            "too_many_pixels",
            f"the image is {said.width}x{said.height}; at most {max_pixels} pixels per image",
        )
    if (reason := overdone(data)) is not None:
        raise Refused("too_complex", reason)
    return said


def _said(error: BaseException) -> str:
    """Return the reason in a few words; a decoder's message may carry bytes of the file."""
    words = str(error)
    return words[:80] if words.isascii() and words.isprintable() and words else "damaged"


def _turned(picture: Image.Image, changes: list[str]) -> Image.Image:
    """Apply the EXIF orientation, as every viewer does."""
    try:
        orientation = picture.getexif().get(_ORIENTATION, 1)
        upright = ImageOps.exif_transpose(picture) if orientation in range(2, 9) else None
    except Exception:  # noqa: BLE001 - EXIF is a file in the file, and Pillow raises anything on it
        return picture
    if upright is None:
        return picture
    changes.append("orientation_applied")
    return upright


def _plain(picture: Image.Image, background: str | None, changes: list[str]) -> Image.Image:
    """Convert the image to 8-bit RGB."""
    match picture.mode:
        case "RGB" if "transparency" not in picture.info:
            return picture
        case "I;16" | "I;16B" | "I;16L":
            changes.append("16_bit_reduced")
            high = picture.tobytes()[1 if picture.mode != "I;16B" else 0 :: 2]
            return Image.frombytes("L", picture.size, high).convert("RGB")
        case "1" | "L" | "P" | "RGB" | "LA" | "PA" | "La" | "RGBA" | "RGBa" | "RGBX":
            return _opaque(picture, background, changes)
        case other:
            raise Refused(
                "color_space", f"the colour mode {other} is not supported: send RGB or grey"
            )


def _opaque(picture: Image.Image, background: str | None, changes: list[str]) -> Image.Image:
    layered = picture.convert("RGBA")
    alpha: Any = layered.getchannel("A").getextrema()
    if alpha[0] == _BACKGROUND_ALPHA:
        return layered.convert("RGB")
    if background is None:
        raise Refused(
            "transparent",
            'the image is partly transparent: flatten it, or send a `background`, like "#ffffff"',
        )
    changes.append(f"flattened_on_{background.lower()}")
    ground = Image.new("RGBA", layered.size, background)
    return Image.alpha_composite(ground, layered).convert("RGB")


def _packed(picture: Image.Image, changes: list[str]) -> dict[str, Any]:
    clean = Image.frombytes("RGB", picture.size, pixels := picture.tobytes())  # pixels, no info
    into = io.BytesIO()
    clean.save(into, "PNG", compress_level=PNG_LEVEL)
    return {
        "width": picture.width,
        "height": picture.height,
        "pixel_sha256": hashlib.sha256(pixels).hexdigest(),
        "changes": changes,
        "png": into.getvalue(),
    }


# --- the process


def serve(read: BinaryIO, write: BinaryIO, *, max_pixels: int) -> None:
    """Serve requests until the pipe is closed; a line of JSON, then bytes, both ways."""
    while line := read.readline():
        asked: dict[str, Any] = json.loads(line)
        data = read.read(asked.pop("bytes"))
        allow_cpu(0)
        try:
            answer: dict[str, Any] = _answer(data, asked, max_pixels)
        except Refused as refused:
            answer = {"code": refused.code, "detail": str(refused)}
        except MemoryError:
            answer = {
                "code": "too_large",
                "detail": "the image takes too much memory to decode: send a smaller one",
            }
        png: bytes = answer.pop("png", b"")
        write.write(json.dumps({**answer, "bytes": len(png)}).encode() + b"\n" + png)
        write.flush()


def _answer(data: bytes, asked: dict[str, Any], max_pixels: int) -> dict[str, Any]:
    what = asked.pop("what")
    if what == "resize":
        return resize(data, **asked)
    if asked.pop("base64"):
        data = from_base64(data)
    if len(data) > asked.pop("max_bytes"):
        raise Refused("too_large", "the image file is larger than the limit: send a smaller one")
    return decode(data, max_pixels=max_pixels, **asked)


def allow_cpu(pixels: int) -> None:
    """Allow this process the CPU time that an image of so many pixels may take."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    until_s = used.ru_utime + used.ru_stime + _BASE_CPU_S + _CPU_S_PER_PIXEL * pixels
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(until_s), hard))


def confine(max_pixels: int) -> None:
    """Limit memory to the need of the largest image; forbid files and all output.

    The process's stderr is the API's log: a JPEG of 65 kB with 5,000 EXIF entries wrote as many
    warnings.
    """
    warnings.simplefilter("ignore")
    logging.disable()
    limit = _BASE_BYTES + _BYTES_PER_PIXEL * max_pixels
    limits: list[tuple[int, int]] = [
        (resource.RLIMIT_AS, limit),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ]
    set_limit: Callable[[int, tuple[int, int]], None] = resource.setrlimit
    for what, most in limits:
        set_limit(what, (most, most))


if __name__ == "__main__":
    pixels_limit = int(sys.argv[1])
    confine(pixels_limit)
    serve(sys.stdin.buffer, sys.stdout.buffer, max_pixels=pixels_limit)
