"""Interruptible work, done in pieces: images under way run on between any two pieces.

Owns the greenlet of such a piece of work (the loading of adapters, a self-test) and the places
where it pauses: before each model call and each file. Knows no model and no image. Invariant:
outside of such work `breathe` does nothing; inside `unbroken` nothing pauses.

Why: a self-test is some sixty model calls. In one tick it delayed every image by 27 to 54 ordinary
ticks, for each new scale of a LoRA file.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

from greenlet import GreenletExit, getcurrent, greenlet


class Pieces:
    """Work in pieces, not begun; `step` does the next piece."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._greenlet = _Pausing(work)

    def step(self) -> bool:
        """Run to the next pause. False: the work is done. Errors of the work pass through."""
        self._greenlet.parent = getcurrent()
        self._greenlet.switch()
        return not self._greenlet.dead

    def drop(self) -> None:
        """Abandon the work where it is; its `finally` blocks run."""
        if self._greenlet:  # begun and not ended
            self._greenlet.parent = getcurrent()
            self._greenlet.throw(GreenletExit)


class _Pausing(greenlet):
    unbroken = False


def breathe() -> None:
    """Pause here, if this is interruptible work."""
    current = getcurrent()
    if isinstance(current, _Pausing) and not current.unbroken:
        assert current.parent is not None
        current.parent.switch()


@contextmanager
def unbroken() -> Generator[None]:
    """Run the body as one piece: pause before, not inside (for times and memory peaks)."""
    breathe()
    current = getcurrent()
    if not isinstance(current, _Pausing) or current.unbroken:
        yield
        return
    current.unbroken = True
    try:
        yield
    finally:
        current.unbroken = False
