"""Pictures that should not hurt, one a row: what is sent, and its refusal or what it becomes.

All are made here, byte by byte where Pillow would be too well-behaved to.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

LEFT_TOP = (200, 30, 60)


def a_picture(width: int = 48, height: int = 32, mode: str = "RGB") -> Image.Image:
    """Two colours and a gradient: turning or cropping it shows."""
    picture = Image.new("RGB", (width, height), (20, 90, 200))
    picture.paste(LEFT_TOP, (0, 0, width // 2, height // 2))
    return picture.convert(mode)


def noise() -> Image.Image:
    """What no format packs well."""
    return Image.effect_noise((64, 64), 80).convert("RGB")


def encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    into = io.BytesIO()
    picture.save(into, kind, **options)
    return into.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    crc = zlib.crc32(name + data)
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", crc)


def png(width: int, height: int, *, depth: int = 8, kind: int = 2, body: bytes = b"") -> bytes:
    """A PNG that may say anything of itself."""
    head = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def zeros(size: int) -> bytes:
    """`size` bytes of zero, packed a thousandfold."""
    packer = zlib.compressobj(9)
    parts = [packer.compress(bytes(1 << 20)) for _ in range(size >> 20)]
    return b"".join(parts) + packer.compress(bytes(size & 0xFFFFF)) + packer.flush()


def with_chunk(name: bytes, data: bytes) -> bytes:
    """A good PNG with one more chunk before its pixels."""
    good = encoded(a_picture())
    at = good.index(b"IDAT") - 4
    return good[:at] + chunk(name, data) + good[at:]


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # lay on its side: 48x32 is meant upright, as 32x48
    exif[0x8825] = {1: "N", 2: (52.0, 31.0, 12.0)}  # where it was taken
    return encoded(a_picture(), "JPEG", exif=exif.tobytes(), quality=95)


def frames(kind: str, count: int = 2) -> bytes:
    more = [a_picture(48, 32).rotate(k) for k in range(1, count)]
    return encoded(a_picture(), kind, save_all=True, append_images=more, lossless=True)


def webp_canvas(width: int, height: int) -> bytes:
    """A WebP whose header alone makes the decoder take 8 bytes a pixel."""
    vp8x = b"VP8X" + struct.pack("<I", 10) + b"\x10\0\0\0"
    vp8x += (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF" + struct.pack("<I", len(vp8x) + 4) + b"WEBP" + vp8x


def grey16() -> bytes:
    high = bytes(range(48)) * 32  # the high byte is what is kept; the low one is noise
    rows = b"".join(
        b"\0" + b"".join(bytes((v, 255 - v)) for v in high[y * 48 : y * 48 + 48]) for y in range(32)
    )
    return png(48, 32, depth=16, kind=0, body=zlib.compress(rows))


def mpo() -> bytes:
    """What phones send as .jpg: a second picture behind the first."""
    return encoded(a_picture(), "MPO", save_all=True, append_images=[a_picture(24, 16)])


def transparent(mode: str = "RGBA") -> bytes:
    picture = a_picture(mode="RGBA")
    picture.putalpha(Image.new("L", picture.size, 120))
    return encoded(picture.convert(mode))


def jpeg_saying(width: int, height: int) -> bytes:
    """A good JPEG whose frame header claims another size."""
    data = bytearray(encoded(a_picture(), "JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def scans(picture: bytes, many: int) -> bytes:
    """A progressive JPEG whose last scan stands `many` times more: each passes over all of it."""
    last, end = picture.rindex(b"\xff\xda"), picture.rindex(b"\xff\xd9")
    return picture[:end] + picture[last:end] * many + picture[end:]


def progressive(width: int = 48, height: int = 32) -> bytes:
    return encoded(a_picture(width, height), "JPEG", progressive=True)


def with_parts(many: int) -> bytes:
    """A good PNG whose pixels come in `many` chunks more, all of them empty."""
    good = encoded(a_picture())
    at = good.index(b"IDAT") - 4
    return good[:at] + chunk(b"IDAT", b"") * many + good[at:]


def with_segments(many: int) -> bytes:
    """A good JPEG with so many comments."""
    good = encoded(a_picture(), "JPEG")
    return good[:2] + b"\xff\xfe\x00\x02" * many + good[2:]


def with_riff_chunks(many: int) -> bytes:
    good = encoded(a_picture(), "WEBP", lossless=True)
    return good + b"JUNK\x00\x00\x00\x00" * many


def with_exif(entries: int) -> bytes:
    """A good JPEG whose EXIF lists what is not there: each entry is a warning of Pillow's."""
    listed = b"".join(struct.pack("<HHII", k, 2, 60_000, 0) for k in range(entries))
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, entries) + listed + bytes(4)
    good = encoded(a_picture(), "JPEG")
    return good[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + good[2:]


# name: (bytes, the code it is refused with)
REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "nothing": (lambda: b"", "unknown_format"),
    "20,000 scans of 16 megapixels": (
        lambda: scans(progressive(4096, 4096), 20_000),
        "too_complex",
    ),
    "101 scans": (lambda: scans(progressive(), 101), "too_complex"),
    "a million chunks": (lambda: with_parts(800_000), "too_complex"),
    "a million segments": (lambda: with_segments(1_000_000), "too_complex"),
    "a million chunks of RIFF": (lambda: with_riff_chunks(1_000_000), "too_complex"),
    "text": (lambda: b"not a picture", "unknown_format"),
    "html": (lambda: b"<html><script>alert(1)</script>", "unknown_format"),
    "svg": (lambda: b'<svg xmlns="http://www.w3.org/2000/svg"/>', "unknown_format"),
    "gif": (lambda: encoded(a_picture(mode="P"), "GIF"), "unknown_format"),
    "bmp": (lambda: encoded(a_picture(), "BMP"), "unknown_format"),
    "tiff": (lambda: encoded(a_picture(), "TIFF"), "unknown_format"),
    "ico": (lambda: encoded(a_picture(), "ICO"), "unknown_format"),
    "eps": (lambda: encoded(a_picture(), "EPS"), "unknown_format"),
    "pdf": (lambda: b"%PDF-1.7\n", "unknown_format"),
    "png magic and no more": (lambda: b"\x89PNG\r\n\x1a\n", "unknown_format"),
    "png that says 50000 x 50000": (lambda: png(50_000, 50_000), "too_many_pixels"),
    "png that says 2^31 x 1": (lambda: png(2**31 - 1, 1), "too_many_pixels"),
    "png of no width": (lambda: png(0, 32), "too_many_pixels"),
    "png bomb: 16384 x 16384 of zeros in 1 MB": (
        lambda: png(16_384, 16_384, body=zeros(64 << 20)),
        "too_many_pixels",
    ),
    "webp canvas of 16384 x 16384": (lambda: webp_canvas(16_384, 16_384), "too_many_pixels"),
    "webp canvas and no picture": (lambda: webp_canvas(64, 64), "unreadable"),
    "jpeg that says 60000 x 60000": (lambda: jpeg_saying(60_000, 60_000), "too_many_pixels"),
    "png without pixels": (lambda: png(64, 64), "unreadable"),
    "png with too few pixels": (lambda: png(64, 64, body=zlib.compress(b"\0" * 99)), "unreadable"),
    "png whose pixels are no zlib": (lambda: png(64, 64, body=b"\xff" * 99), "unreadable"),
    "png of an impossible kind": (lambda: png(64, 64, kind=7), "unreadable"),
    "png cut in the middle": (lambda: encoded(a_picture(200, 200))[:300], "unreadable"),
    "png with a broken checksum": (
        lambda: encoded(a_picture()).replace(b"IDAT", b"IDAT\0", 1),
        "unreadable",
    ),
    "jpeg cut in the middle": (
        lambda: encoded(a_picture(200, 200), "JPEG")[:-200],
        "unreadable",
    ),
    "jpeg of a header only": (lambda: jpeg_saying(48, 32)[:400], "unreadable"),
    "webp cut in the middle": (
        lambda: encoded(noise(), "WEBP", lossless=True)[:-300],
        "unreadable",
    ),
    "two frames of png": (lambda: frames("PNG"), "animated"),
    "a hundred frames of webp": (lambda: frames("WEBP", 100), "animated"),
    "half transparent": (transparent, "transparent"),
    "half transparent grey": (lambda: transparent("LA"), "transparent"),
    "a transparent colour of a palette": (
        lambda: encoded(a_picture(mode="P"), transparency=a_picture(mode="P").getpixel((0, 0))),
        "transparent",
    ),
    "a transparent colour of RGB": (
        lambda: encoded(a_picture(), transparency=LEFT_TOP),
        "transparent",
    ),
    "cmyk": (lambda: encoded(a_picture(mode="CMYK"), "JPEG"), "color_space"),
    "a text chunk of 50 MB": (
        lambda: with_chunk(b"zTXt", b"x\0\0" + zeros(50 << 20)),
        "unreadable",
    ),
}


def many_texts() -> PngInfo:
    info = PngInfo()
    info.add_text("prompt", "a secret of somebody's")
    return info


# name: (bytes, size, changes); these are what cameras and tools send
TAKEN: dict[str, tuple[Callable[[], bytes], tuple[int, int], list[str]]] = {
    "png": (lambda: encoded(a_picture()), (48, 32), []),
    "jpeg": (lambda: encoded(a_picture(), "JPEG"), (48, 32), []),
    "a progressive jpeg with 90 scans": (lambda: scans(progressive(), 80), (48, 32), []),
    "5,000 entries in its EXIF": (lambda: with_exif(5_000), (48, 32), []),
    "1,000 chunks": (lambda: with_parts(1_000), (48, 32), []),
    "progressive jpeg": (lambda: encoded(a_picture(), "JPEG", progressive=True), (48, 32), []),
    "webp": (lambda: encoded(a_picture(), "WEBP", lossless=True), (48, 32), []),
    "lossy webp": (lambda: encoded(a_picture(), "WEBP"), (48, 32), []),
    "black and white": (lambda: encoded(a_picture(mode="1")), (48, 32), []),
    "grey": (lambda: encoded(a_picture(mode="L")), (48, 32), []),
    "palette": (lambda: encoded(a_picture(mode="P")), (48, 32), []),
    "opaque alpha": (lambda: encoded(a_picture(mode="RGBA")), (48, 32), []),
    "16 bits of grey": (grey16, (48, 32), ["16_bit_reduced"]),
    "turned, with a place in it": (turned, (32, 48), ["orientation_applied"]),
    "a colour profile": (
        lambda: encoded(a_picture(), icc_profile=b"no profile at all"),
        (48, 32),
        ["profile_ignored"],
    ),
    "nonsense for EXIF": (lambda: encoded(a_picture(), exif=b"Exif\0\0MM\0*garbage"), (48, 32), []),
    "a text": (lambda: encoded(a_picture(), pnginfo=many_texts()), (48, 32), []),
    "a zip behind it": (lambda: encoded(a_picture()) + b"PK\x03\x04 and a page", (48, 32), []),
    "several pictures of a phone": (mpo, (48, 32), []),
    "one pixel": (lambda: encoded(a_picture(2, 2).crop((0, 0, 1, 1))), (1, 1), []),
}
