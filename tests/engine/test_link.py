"""The engine's process, real, from the control process's side: work, death, respawn."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jobs.settings import ROOT
from tests.engine.faults import faulty_catalogue
from tests.engine.runs import pixels
from tests.engine.tiny import a_request
from tests.helpers import wait_until
from worker.engine_link import EngineAway, EngineLink
from worker.messages import (
    Canceled,
    EngineConfig,
    EngineDied,
    Event,
    Failed,
    Finished,
    ImageRequest,
    Progress,
    Ready,
)

UP_S = 90.0  # importing torch and diffusers takes 6 s alone, and a minute among busy neighbours
pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("engine-process")]


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> EngineConfig:
    folder = tmp_path_factory.mktemp("models")
    return EngineConfig(catalogue=faulty_catalogue(folder), threads=1, state_dir=folder / "state")


@pytest.fixture(scope="module")
def link(config: EngineConfig) -> Iterator[EngineLink]:
    made = EngineLink(config)
    made.start()
    yield made
    made.stop(grace_s=5.0)


def events_until(link: EngineLink, enough: Callable[[list[Event]], bool]) -> list[Event]:
    events: list[Event] = []

    def more() -> bool:
        link.wait(0.05)
        events.extend(link.poll())
        return enough(events)

    wait_until(more, "the engine's events", timeout_s=UP_S)
    return events


def up(link: EngineLink) -> None:
    events_until(link, lambda _: link.ready)


def ends_of(link: EngineLink, *requests: ImageRequest) -> dict[str, Finished | Failed | Canceled]:
    ids = {r.id for r in requests}
    found = lambda events: {  # noqa: E731
        e.id: e for e in events if isinstance(e, Finished | Failed | Canceled) and e.id in ids
    }
    return found(events_until(link, lambda events: len(found(events)) == len(ids)))


def test_nothing_can_be_submitted_before_the_engine_is_ready(config: EngineConfig):
    with pytest.raises(EngineAway):
        EngineLink(config).submit(a_request())


def test_ready_tells_what_each_model_promises(link: EngineLink):
    events = events_until(link, lambda _: link.ready)

    report = next(e for e in events if isinstance(e, Ready)).models[0]
    assert (report.model, report.reproducibility, report.lane_widths) == ("tiny", "exact", (2,))
    assert len(report.samplers) >= 25
    assert "threads=1" in report.fingerprint


def test_images_come_back_and_a_canceled_one_stops(link: EngineLink):
    up(link)
    kept, dropped = a_request(), a_request(prompt="!slow@0", steps=400)
    link.submit(kept)
    link.submit(dropped)
    events_until(link, lambda ev: any(isinstance(e, Progress) and e.id == dropped.id for e in ev))

    link.cancel(dropped.id)
    ends = ends_of(link, kept, dropped)

    assert len(pixels(ends[kept.id])) == kept.width * kept.height * 3
    assert isinstance(ends[dropped.id], Canceled)


def test_an_engine_that_is_killed_gives_its_images_back_and_comes_again_with_the_same_bits(
    link: EngineLink,
):
    up(link)
    before = a_request(seed=11)
    link.submit(before)
    known = pixels(ends_of(link, before)[before.id])
    deadly, neighbour = a_request(prompt="!kill@1"), a_request(prompt="!slow@0", steps=400)
    link.submit(neighbour)
    link.submit(deadly)

    events = events_until(link, lambda ev: any(isinstance(e, EngineDied) for e in ev))
    death = next(e for e in events if isinstance(e, EngineDied))
    assert (death.cause, death.exitcode) == ("killed", -signal.SIGKILL)
    assert set(death.lost_ids) == {deadly.id, neighbour.id}
    assert not link.ready

    up(link)
    again = a_request(seed=11)
    link.submit(again)
    assert pixels(ends_of(link, again)[again.id]) == known


def test_an_engine_that_hangs_is_killed_and_says_so(link: EngineLink, monkeypatch):
    up(link)
    monkeypatch.setattr(link._child._silence, "_limit_s", 1.5)
    stuck = a_request(prompt="!hang@0")
    link.submit(stuck)

    events = events_until(link, lambda ev: any(isinstance(e, EngineDied) for e in ev))

    death = next(e for e in events if isinstance(e, EngineDied))
    assert (death.cause, death.lost_ids) == ("hung", (stuck.id,))


def test_the_engine_does_not_outlive_its_parent(config: EngineConfig, tmp_path):
    if sys.platform != "linux":
        pytest.skip("PR_SET_PDEATHSIG is Linux")
    code = (
        "import sys, pathlib; from jobs.contract.model_file import load_catalogue\n"
        "from worker.engine_link import EngineLink; from worker.messages import EngineConfig\n"
        f"c = load_catalogue(pathlib.Path({str(config.catalogue.folder)!r}) / 'models.toml')\n"
        "link = EngineLink(EngineConfig(catalogue=c)); link.start()\n"
        "print(link.pid, flush=True); sys.stdin.read()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert parent.stdin
    assert parent.stdout
    child = int(parent.stdout.readline())

    parent.kill()
    parent.wait()
    parent.stdin.close()
    parent.stdout.close()

    wait_until(lambda: _gone(child), "the orphan is gone", timeout_s=10.0)


def _gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")")[-1].split()[0] == "Z"
