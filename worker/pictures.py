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

from jobs.spec import JobSpec
from worker.messages import Finished

CONTENT_TYPES = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
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


def metadata(finished: Finished, spec: JobSpec, *, seed: int, job_id: str) -> dict[str, Any]:
    """Everything needed to make this picture again, as (seed, n=1)."""
    control = spec.control.model_dump() if spec.control else None
    started = {
        "control": control,
        "image": spec.image,
        "mask": spec.mask,
        "strength": spec.strength,
    }
    return {
        "job": job_id,
        "model": spec.model,
        "prompt": spec.prompt,
        "negative_prompt": spec.negative_prompt,
        "width": spec.width,
        "height": spec.height,
        "steps": spec.steps,
        "guidance_scale": spec.guidance_scale,
        "seed": seed,
        "sampler": spec.sampler,
        **{name: value for name, value in started.items() if value is not None},
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
