"""Encodes pixels as PNG, JPEG or WebP, with the metadata to generate the image again.

Owns the file formats and their metadata. Pure: pixels in, bytes out. Invariant: the pixels of a
PNG are the engine's, bit for bit; metadata never holds a tenant or a key; every file says that a
model made it (ai_mark), whatever else it says.
"""

from __future__ import annotations

import io
import json
from typing import Any

from PIL import Image as Pillow
from PIL.PngImagePlugin import PngInfo

from jobs.contract.spec import JobSpec
from worker.messages import Finished
from worker.pictures.ai_mark import xmp_of

DEFAULT_QUALITY = 90
PNG_LEVEL = 1  # level 6 takes five times as long and saves a tenth of the bytes
XMP_CHUNK = "XML:com.adobe.xmp"  # the iTXt keyword of XMP in PNG (XMP specification, part 3)
_EXIF_DESCRIPTION, _EXIF_SOFTWARE = 0x010E, 0x0131


def encode(finished: Finished, spec: JobSpec, *, seed: int, job_id: str) -> bytes:
    """Return the image encoded in the spec's output format."""
    pixels = finished.pixels
    picture = Pillow.frombytes("RGB", (pixels.width, pixels.height), pixels.data)
    about = metadata(finished, spec, seed=seed, job_id=job_id) if spec.output.metadata else None
    mark = xmp_of(spec)
    into = io.BytesIO()
    match spec.output.format:
        case "png":
            picture.save(into, "PNG", compress_level=PNG_LEVEL, pnginfo=_png_text(about, mark))
        case "jpeg" | "webp" as other:
            quality = spec.output.quality or DEFAULT_QUALITY
            picture.save(into, other.upper(), quality=quality, exif=_exif(about), xmp=mark)
    return into.getvalue()


# Fields of a spec that are not written into a file: delivery, and the owner's own metadata.
NOT_IN_FILES = {
    "seeds",  # replaced by the image's own seed
    "output",
    "preview",
    "priority",
    "deadline_s",
    "retention_s",
    "reproducibility",  # the requested one; the file holds the one achieved
    "metadata",
    "webhook",
}


def metadata(finished: Finished, spec: JobSpec, *, seed: int, job_id: str) -> dict[str, Any]:
    """Return all parameters needed to generate this image again, as a job with n=1."""
    parameters = spec.model_dump(mode="json", exclude=NOT_IN_FILES, exclude_none=True)
    if not spec.loras:
        del parameters["loras"]
    return {
        "job": job_id,
        **parameters,
        "seed": seed,
        "reproducibility": finished.reproducibility,
        "fingerprint": finished.fingerprint,
    }


def _png_text(about: dict[str, Any] | None, mark: bytes) -> PngInfo:
    info = PngInfo()
    info.add_itxt(XMP_CHUNK, mark.decode())
    if about is not None:
        info.add_text("Software", "Printworks")
        info.add_itxt("printworks", json.dumps(about, ensure_ascii=False))
    return info


def _exif(about: dict[str, Any] | None) -> bytes:
    exif = Pillow.Exif()
    if about is not None:
        exif[_EXIF_SOFTWARE] = "Printworks"
        exif[_EXIF_DESCRIPTION] = json.dumps(
            about
        )  # EXIF text is ASCII: other characters are escaped
    return exif.tobytes()
