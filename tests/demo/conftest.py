"""The font that the demo model's scenes are drawn from: a package of its own, not in the clone."""

from __future__ import annotations

import pytest

from models.demo.recipe.scenes import FONT
from tests.helpers import tool_missing


@pytest.fixture(scope="session")
def font() -> None:
    """Noto Color Emoji, without which no scene can be drawn."""
    if not FONT.exists():
        tool_missing(f"no {FONT.name}: `apt install fonts-noto-color-emoji`")
