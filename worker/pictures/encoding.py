"""Pixels as a file: PNG, JPEG or WebP, with what is needed to make the picture again.

Owns the formats and the metadata in them. Pure: pixels in, bytes out. Invariant: the pixels of a
PNG are the engine's, bit for bit; metadata never holds a tenant or a key.
"""

from __future__ import annotations

import io
import json
from typing import Any

from PIL import Image as Pillow
from PIL.PngImagePlugin import PngInfo

from jobs.contract.spec import JobSpec
from worker.messages import Finished

DEFAULT_QUALITY = 90
PNG_LEVEL = 1  # level 6 takes five times as long and saves a tenth of the bytes
_EXIF_DESCRIPTION, _EXIF_SOFTWARE = 0x010E, 0x0131


def encode(finished: Finished, spec: JobSpec, *, seed: int, job_id: str) -> bytes:
    """The picture as a file of the format that the spec asks for."""
    pixels = finished.pixels
    picture = Pillow.frombytes("RGB", (pixels.width, pixels.height), pixels.data)
    about = metadata(finished, spec, seed=seed, job_id=job_id) if spec.output.metadata else None
    into = io.BytesIO()
    match spec.output.format:
        case "png":
            picture.save(into, "PNG", compress_level=PNG_LEVEL, pnginfo=_png_text(about))
        case "jpeg" | "webp" as other:
            quality = spec.output.quality or DEFAULT_QUALITY
            picture.save(into, other.upper(), quality=quality, exif=_exif(about))
    return into.getvalue()


# What of a spec is not written into a file: how it was delivered, and what is the owner's own.
NOT_IN_FILES = {
    "seeds",  # the picture's own seed stands there instead
    "output",
    "preview",
    "priority",
    "deadline_s",
    "retention_s",
    "reproducibility",  # asked for; the file says which was kept
    "metadata",
    "webhook",
}


def metadata(finished: Finished, spec: JobSpec, *, seed: int, job_id: str) -> dict[str, Any]:
    """Return everything needed to make this picture again, as (seed, n=1)."""
    asked = spec.model_dump(mode="json", exclude=NOT_IN_FILES, exclude_none=True)
    if not spec.loras:
        del asked["loras"]
    return {
        "job": job_id,
        **asked,
        "seed": seed,
        "reproducibility": finished.reproducibility,
        "fingerprint": finished.fingerprint,
    }


def _png_text(about: dict[str, Any] | None) -> PngInfo | None:
    if about is None:
        return None
    info = PngInfo()
    info.add_text("Software", "Printworks")
    info.add_itxt("printworks", json.dumps(about, ensure_ascii=False))
    return info


def _exif(about: dict[str, Any] | None) -> bytes:
    exif = Pillow.Exif()
    if about is not None:
        exif[_EXIF_SOFTWARE] = "Printworks"
        exif[_EXIF_DESCRIPTION] = json.dumps(about)  # EXIF text is ASCII: others are escaped
    return exif.tobytes()
