"""The supervisor: order of start and stop, restarts, giving up. Real processes, small ones."""

from __future__ import annotations

import io
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from deploy.progress import Progress
from deploy.service import Service, ServiceError
from deploy.supervisor import State, Supervisor
from tests.helpers import gone, wait_until

# notes its name in the file `journal` when it starts and when it is asked to end
WELL_BEHAVED = """
import signal, sys
journal, name = sys.argv[1:]
note = lambda what: open(journal, 'a').write(f'{what} {name}\\n')
signal.signal(signal.SIGTERM, lambda *_: (note('stop'), sys.exit(0)))
note('start')
while True: signal.pause()
"""


def service(tmp_path: Path, name: str, *after: str, code: str = WELL_BEHAVED) -> Service:
    journal = tmp_path / "journal"
    return Service(
        name=name,
        argv=[sys.executable, "-c", code, journal, name],
        log=tmp_path / f"{name}.log",
        ready=lambda: journal.exists() and f"start {name}\n" in journal.read_text(),
        after=after,
        stop_s=5.0,
    )


class Running:
    """A supervisor under test, what it said, and the process IDs it told."""

    def __init__(self, services: Sequence[Service]) -> None:
        self.said = io.StringIO()
        self.told: list[dict[str, int]] = []
        self.supervisor = Supervisor(
            services, Progress(self.said), changed=lambda pids: self.told.append(dict(pids))
        )

    def tick_until_ready(self) -> bool:
        self.supervisor.tick()
        return self.supervisor.ready()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    """Three services: b and c come after a."""
    names = (("a",), ("b", "a"), ("c", "a"))
    under_test = Running([service(tmp_path, *name) for name in names])
    assert under_test.supervisor.start(interrupted=lambda: False)
    yield under_test
    under_test.supervisor.stop(at_once=lambda: True)


def test_services_start_after_those_they_need_and_stop_before_them(
    running: Running, tmp_path: Path
) -> None:
    running.supervisor.stop(at_once=lambda: False)

    journal = (tmp_path / "journal").read_text().splitlines()
    assert journal[0] == "start a"
    assert set(journal[1:3]) == {"start b", "start c"}
    assert set(journal[3:5]) == {"stop b", "stop c"}
    assert journal[5:] == ["stop a"]


def test_a_service_that_dies_is_started_again_and_that_is_said(running: Running) -> None:
    before = running.supervisor.pids()

    psutil.Process(before["b"]).send_signal(signal.SIGKILL)
    wait_until(lambda: not running.tick_until_ready(), "the death is noticed")
    wait_until(running.tick_until_ready, "all are ready again")

    after = running.supervisor.pids()
    assert after["a"] == before["a"]
    assert after["b"] != before["b"]
    assert running.told == [after]
    assert "b was killed by SIGKILL; starting it again in 0.25 s" in running.said.getvalue()


def test_the_second_request_to_stop_waits_for_nobody(tmp_path: Path) -> None:
    deaf = WELL_BEHAVED.replace("signal.signal(", "(lambda *_: 0)(") + "\n"
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + deaf
    under_test = Running([service(tmp_path, "deaf", code=deaf)])
    under_test.supervisor.start(interrupted=lambda: False)
    process = psutil.Process(under_test.supervisor.pids()["deaf"])

    under_test.supervisor.stop(at_once=lambda: True)

    assert gone(process)


def test_a_service_that_never_comes_up_is_given_up_with_its_last_words(tmp_path: Path) -> None:
    broken = service(tmp_path, "broken", code="raise SystemExit('REDIS_URL makes no sense')")
    under_test = Running([broken])

    with pytest.raises(ServiceError, match=r"3 times(.|\n)*REDIS_URL makes no sense"):
        under_test.supervisor.start(interrupted=lambda: False)


def test_a_service_that_refuses_to_start_is_not_tried_again_and_speaks_for_itself(
    tmp_path: Path,
) -> None:
    code = "import sys; print('{\"event\": 1}'); print('models.toml: no such model'); sys.exit(2)"
    under_test = Running([service(tmp_path, "refusing", code=code)])

    with pytest.raises(ServiceError) as refused:
        under_test.supervisor.start(interrupted=lambda: False)

    assert str(refused.value) == "refusing cannot start.\nmodels.toml: no such model"
    assert "starting it again" not in under_test.said.getvalue()


def test_a_service_that_is_never_ready_is_given_up_after_its_time(tmp_path: Path) -> None:
    silent = service(tmp_path, "silent")
    silent.ready, silent.start_s = (lambda: False), 0.3
    under_test = Running([silent])

    with pytest.raises(ServiceError, match=r"silent is not ready after 0\.3 s"):
        under_test.supervisor.start(interrupted=lambda: False)

    under_test.supervisor.stop(at_once=lambda: True)


def test_an_interrupted_start_ends_without_waiting(tmp_path: Path) -> None:
    silent = service(tmp_path, "silent")
    silent.ready = lambda: False
    under_test = Running([silent])

    assert not under_test.supervisor.start(interrupted=silent.running)

    under_test.supervisor.stop(at_once=lambda: True)
    assert not silent.running()
    assert State.READY not in [kept.state for kept in under_test.supervisor._kept.values()]
