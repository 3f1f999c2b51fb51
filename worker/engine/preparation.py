"""Preparation of an image before its start: load adapters, test its size and networks.

Owns the one preparation that is under way. Knows no batch. Invariant: a tick does one piece of it
(at most one model call, or one file) or runs one group of images, never both, and no two pieces
follow each other while images are under way: only the request that needs something new waits for
all of it, and every other one for at most one ordinary tick at a time.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from worker.engine.interruptible import Pieces
from worker.engine.model import Model
from worker.messages import ImageRequest


class Preparation:
    """The preparation of one image, from its first piece to its last."""

    def __init__(self, model: Model, request: ImageRequest, since_s: float) -> None:
        """Create a preparation, not begun; `since_s`: when the image was submitted."""
        self.model = model
        self.request = request
        self.since_s = since_s
        self.wanted = True  # False: canceled; the work goes on, for the next request of its kind
        self._pieces = Pieces(lambda: model.prepare(request))

    def step(self) -> bool:
        """Do the next piece; False: it was the last. Errors of loading and testing pass through."""
        return self._pieces.step()

    def drop(self) -> None:
        """Abandon the work where it is."""
        with torch.no_grad():  # a self-test switches gradients off: back to what they are here
            self._pieces.drop()


class Preparing:
    """The current preparation, and its turns with the images under way."""

    def __init__(self) -> None:
        self.current: Preparation | None = None
        self._was_last = False

    def begin(self, preparation: Preparation) -> None:
        """Set the current preparation; there must be none."""
        assert self.current is None, "one preparation at a time"
        self.current = preparation

    def end(self) -> None:
        """Clear the current preparation, done or failed."""
        self.current = None

    def its_turn(self, *, others: bool) -> Preparation | None:
        """Return the preparation if its next piece is due; `others`: images are under way."""
        self._was_last = self.current is not None and not (others and self._was_last)
        return self.current if self._was_last else None


def may_start(
    ready: Callable[[ImageRequest], bool], *, free: bool
) -> Callable[[ImageRequest], bool]:
    """Return a test of requests that may start in this tick: all if `free`, else the `ready`.

    The test runs for every waiting image: requests with equal needs are checked once.
    """
    cached: dict[object, bool] = {}

    def may(request: ImageRequest) -> bool:
        if free:
            return True
        needs = (
            request.model, request.width, request.height, request.loras, request.image is None,
            request.mask is None, request.control and request.control.name,
            request.guidance_scale > 1, request.sampler, request.exact,
        )  # fmt: skip
        if needs not in cached:
            cached[needs] = ready(request)
        return cached[needs]

    return may
