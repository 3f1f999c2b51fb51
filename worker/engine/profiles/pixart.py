"""PixArt-alpha and -Sigma: a small transformer under T5, with a mask over the text."""

from __future__ import annotations

from worker.engine.profiles.base import Profile

PIXART = Profile(
    name="pixart",
    pipelines=("PixArtAlphaPipeline", "PixArtSigmaPipeline"),
    fixed={"use_resolution_binning": False},  # it would make another size than was asked for
)
