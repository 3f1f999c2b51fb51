"""Sana: linear attention over a 32-fold compressed latent."""

from __future__ import annotations

from worker.engine.profiles.base import Profile

SANA = Profile(
    name="sana",
    pipelines=("SanaPipeline",),
    fixed={"use_resolution_binning": False},  # it would make another size than was asked for
)
