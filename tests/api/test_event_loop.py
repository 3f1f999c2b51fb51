"""Nothing that a client sends holds the loop: others have their turn, whatever its size.

What is measured is CPU time of one callback of the loop, which a busy machine does not stretch.
The figures by the clock are those of benchmarks/event_loop.py.
"""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from api.edge.strict_json import strict_json
from api.services.prompt_policy import normal_form
from api.uploads.large_bodies import PictureCutter
from jobs.errors import InvalidRequest
from tests.api.hostile_bodies import HOSTILE, SMALL, Hostile, doubled, send
from tests.api.serving import Served

FLOOR_S = 0.004  # below it a callback is short, and its time is noise


class Holds:
    """The longest callback of one thread's loop since it was last asked, in CPU seconds."""

    def __init__(self, thread: threading.Thread) -> None:
        self._thread = thread
        self._longest_s = 0.0

    def wrap(self, run: Callable[[asyncio.Handle], None]) -> Callable[[asyncio.Handle], None]:
        def timed(handle: asyncio.Handle) -> None:
            if threading.current_thread() is not self._thread:
                run(handle)
                return
            began_s = time.thread_time()
            run(handle)
            self._longest_s = max(self._longest_s, time.thread_time() - began_s)

        return timed

    def taken(self) -> float:
        longest_s, self._longest_s = self._longest_s, 0.0
        return longest_s


@pytest.fixture
def holds(served: Served, monkeypatch: pytest.MonkeyPatch) -> Iterator[Holds]:
    watched = Holds(served.thread)
    monkeypatch.setattr(asyncio.Handle, "_run", watched.wrap(asyncio.Handle._run))
    gc.disable()  # a look for garbage in all that pytest has takes 0.1 s of whoever it falls on
    yield watched
    gc.enable()


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE.keys())
def test_no_request_holds_the_loop(served: Served, holds: Holds, hostile: Hostile):
    # JSON is parsed whole: twice of it may take twice the time, not four times. All else is taken
    # in pieces: eight times of it is more pieces
    less = 2 if hostile.most == SMALL and not hostile.chunk else 8

    def held_s(size: int) -> float:
        """The longest hold, the less of two tries: what is made once is made in the first."""
        found: list[float] = []
        for _ in range(2):
            holds.taken()
            assert send(served.address, hostile, size) < 500
            found.append(holds.taken())
        return min(found)

    less_s = held_s(hostile.most // less)

    assert held_s(hostile.most) < 3 * max(less_s, FLOOR_S)


def least_s(call: Callable[[], object]) -> float:
    """CPU seconds of a call, the least of three."""
    taken: list[float] = []
    for _ in range(3):
        began_s = time.thread_time()
        call()
        taken.append(time.thread_time() - began_s)
    return min(taken)


# Four times the input: linear work takes 4 times as long, quadratic 16; on a busy machine 4 was 6.
def test_parsing_takes_as_long_as_there_are_names():
    def refused(body: bytes) -> None:
        with pytest.raises(InvalidRequest, match="occurs twice"):
            strict_json(body)

    few, many = (doubled("{", "}")(size) for size in (SMALL * 4, SMALL * 16))

    assert least_s(lambda: refused(many)) < 10 * least_s(lambda: refused(few))


def test_a_prompt_takes_as_long_as_there_are_marks():
    # Python sorts the marks of one letter by insertion
    few, many = ("a" + "\u0301\u0316" * number for number in (20_000, 80_000))

    assert normal_form(few) == normal_form(many) == "á"
    assert least_s(lambda: normal_form(many)) < 10 * least_s(lambda: normal_form(few))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64])
def test_a_picture_is_cut_out_wherever_the_pieces_end(size: int):
    picture = b'a\\"b\\\\' * 8_000
    body = b'{"prompt": "a \\"cat\\\\", "image": "' + picture + b'", "n": 1}'
    cutter = PictureCutter(usual_bytes=1_000)

    for at in range(0, len(body), size):
        cutter.feed(body[at : at + size])

    cut = cutter.cut()
    ((token, found),) = cut.pictures.items()
    assert found == picture
    assert cut.json == body.replace(picture, token.encode())
