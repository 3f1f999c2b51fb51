"""A finished image, as the engine hands it over, around pixels of a test's own."""

from __future__ import annotations

from worker.messages import Finished, Pixels


def finished(pixels: Pixels) -> Finished:
    """The end of one image."""
    return Finished(
        id="i",
        pixels=pixels,
        encode_ms=0.0,
        denoise_ms=0.0,
        decode_ms=0.0,
        batch_size_mean=1.0,
        calls=1,
        fingerprint="torch=2",
        reproducibility="exact",
    )
