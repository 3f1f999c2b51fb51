"""Work that is done in pieces, so that pictures under way go on between any two of them.

Owns the greenlet of such a piece of work (the loading of adapters, a self-test) and the places
where it pauses: before each model call and each file. Knows no model and no picture. Invariant:
outside of such work `breathe` does nothing; inside `unbroken` nothing pauses.

Why: a self-test is some sixty model calls. In one tick it held up everybody for 27 to 54 ordinary
ticks, for each new scale of a LoRA file.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

from greenlet import GreenletExit, getcurrent, greenlet


class Pieces:
    """One such work, not begun. `step` does the next piece of it."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._greenlet = _Pausing(work)

    def step(self) -> bool:
        """Go on up to the next pause. False: it is done. Raises what the work raises."""
        self._greenlet.parent = getcurrent()
        self._greenlet.switch()
        return not self._greenlet.dead

    def drop(self) -> None:
        """Give it up where it is; its `finally` blocks run."""
        if self._greenlet:  # begun and not ended
            self._greenlet.parent = getcurrent()
            self._greenlet.throw(GreenletExit)


class _Pausing(greenlet):
    unbroken = False


def breathe() -> None:
    """Let others go on, if this is work in pieces."""
    current = getcurrent()
    if isinstance(current, _Pausing) and not current.unbroken:
        assert current.parent is not None
        current.parent.switch()


@contextmanager
def unbroken() -> Generator[None]:
    """One piece: pause before it, and not inside (a time, a peak of memory is taken there)."""
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
