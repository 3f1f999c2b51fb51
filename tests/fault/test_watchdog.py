"""The watchdog over the engine process: it counts silence that it listened to, and no other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.helpers import wait_until
from tests.queue.fake_engine import fake_link
from tests.queue.making import CATALOGUE
from worker.engine_link import LOOK_S, QUIET_S, EngineLink
from worker.messages import EngineConfig, EngineDied, Event, ImageRequest, Started


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def link(clock: Clock) -> Iterator[EngineLink]:
    made = fake_link(EngineConfig(catalogue=CATALOGUE), step_s=0.01, clock=clock)
    made.start()
    wait_until(lambda: made.poll() and made.ready, "the engine is ready", 60)
    yield made
    made.stop(grace_s=5.0)


def a_request(prompt: str) -> ImageRequest:
    return ImageRequest(
        id="i",
        model="demo",
        prompt=prompt,
        width=64,
        height=64,
        steps=50,
        guidance_scale=1.0,
        seed=1,
        sampler="ddim",
    )


def test_a_worker_that_was_frozen_does_not_take_its_engine_for_hung(link: EngineLink, clock: Clock):
    pid = link.pid
    for _ in range(3):  # as after SIGSTOP: an hour between two looks, and its messages still unread
        clock.now_s += 3600.0
        events = link.poll()

        assert not any(isinstance(e, EngineDied) for e in events)
    assert link.pid == pid


def test_t33_an_engine_that_says_nothing_for_thirty_seconds_is_replaced(
    link: EngineLink, clock: Clock
):
    link.submit(a_request("hang"))
    heard: list[Event] = []

    def started() -> bool:
        heard.extend(link.poll())
        return any(isinstance(e, Started) for e in heard)

    wait_until(started, "it has begun", 60)
    silent_s = 0.0

    def found() -> bool:
        nonlocal silent_s
        clock.now_s += LOOK_S / 2
        heard[:] = link.poll()
        spoke = any(not isinstance(e, EngineDied) for e in heard)
        silent_s = 0.0 if spoke else silent_s + LOOK_S / 2
        return any(isinstance(e, EngineDied) for e in heard)

    wait_until(found, "the watchdog has found it", 60)
    (died,) = [e for e in heard if isinstance(e, EngineDied)]
    print(f"T33: no word for {silent_s:g} s of {QUIET_S:g} s: taken for {died.cause}")
    assert (died.cause, died.lost_ids) == ("hung", ("i",))
    assert QUIET_S < silent_s <= QUIET_S + LOOK_S  # not the 600 s that loading may take
