"""Image checkers for tests, named by dotted path as an operator names theirs."""

from __future__ import annotations

from worker.pictures.content_check import Picture


def no_green(picture: Picture) -> bool:
    """Allows what the prompt does not call green; breaks, or says nothing of use, if told to."""
    if "breaks" in picture.prompt:
        raise RuntimeError(f"it met {picture.prompt}")
    if "mumbles" in picture.prompt:
        return "yes"  # type: ignore[return-value]
    assert len(picture.rgb) == picture.width * picture.height * 3
    return "green" not in picture.prompt
