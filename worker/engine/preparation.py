"""What an image needs before it can start: adapters loaded, its size and networks tested.

Owns the one preparation that is under way. Knows no batch. Invariant: a tick does one piece of it
(at most one model call, or one file) or runs one group of images, never both, and no two pieces
follow each other while images are under way: who brings something new waits for it, and everybody
else for at most one ordinary tick at a time.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from worker.engine.interruptible import Pieces
from worker.engine.model import Model
from worker.messages import ImageRequest


class Preparation:
    """One image's, from its first piece to its last."""

    def __init__(self, model: Model, request: ImageRequest, since_s: float) -> None:
        """`since_s`: when the image was submitted."""
        self.model = model
        self.request = request
        self.since_s = since_s
        self.wanted = True  # canceled, it is ended all the same: the next of its kind may start
        self._pieces = Pieces(lambda: model.prepare(request))

    def step(self) -> bool:
        """Do the next piece; False: it was the last. Raises what loading or testing raises."""
        return self._pieces.step()

    def drop(self) -> None:
        """Give it up where it is."""
        with torch.no_grad():  # a self-test switches gradients off: back to what they are here
            self._pieces.drop()


class Preparing:
    """Whose turn it is: the preparation's, or the images'."""

    def __init__(self) -> None:
        self.current: Preparation | None = None
        self._was_last = False

    def begin(self, preparation: Preparation) -> None:
        """Start one; there is no other."""
        assert self.current is None, "one preparation at a time"
        self.current = preparation

    def end(self) -> None:
        """It is done, or failed."""
        self.current = None

    def its_turn(self, *, others: bool) -> Preparation | None:
        """The preparation, if the next piece of it is due; `others`: images are under way."""
        self._was_last = self.current is not None and not (others and self._was_last)
        return self.current if self._was_last else None


def may_start(
    ready: Callable[[ImageRequest], bool], *, free: bool
) -> Callable[[ImageRequest], bool]:
    """Who may leave the waiting line in this tick: who is `ready`; all, if nothing is prepared.

    Asked of every image that waits: images that need the same are looked at once.
    """
    known: dict[object, bool] = {}

    def may(request: ImageRequest) -> bool:
        if free:
            return True
        needs = (
            request.model, request.width, request.height, request.loras, request.image is None,
            request.mask is None, request.control and request.control.name,
            request.guidance_scale > 1, request.sampler, request.exact,
        )  # fmt: skip
        if needs not in known:
            known[needs] = ready(request)
        return known[needs]

    return may
