"""The supervisor: order of start and stop, restarts, giving up. Real processes, small ones."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from deploy.logs import MOST_BYTES, bound
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

    def __init__(
        self,
        services: Sequence[Service],
        *,
        changed: Callable[[Mapping[str, int]], None] | None = None,
        most_log_bytes: int = MOST_BYTES,
    ) -> None:
        self.said = io.StringIO()
        self.told: list[dict[str, int]] = []
        self.supervisor = Supervisor(
            services,
            Progress(self.said),
            changed=changed or (lambda pids: self.told.append(dict(pids))),
            most_log_bytes=most_log_bytes,
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


def test_process_ids_that_cannot_be_noted_end_nothing_and_are_noted_later(tmp_path: Path) -> None:
    full = [True]
    told: list[dict[str, int]] = []

    def note(pids: Mapping[str, int]) -> None:
        if full[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "up.json")
        told.append(dict(pids))

    under_test = Running([service(tmp_path, "a"), service(tmp_path, "b")], changed=note)
    assert under_test.supervisor.start(interrupted=lambda: False)
    psutil.Process(under_test.supervisor.pids()["a"]).kill()
    wait_until(lambda: not under_test.tick_until_ready(), "the death is noticed")
    wait_until(under_test.tick_until_ready, "all are ready again, whatever can be written")
    full[0] = False

    wait_until(lambda: under_test.tick_until_ready() and told, "they are noted in the end")

    assert told == [under_test.supervisor.pids()]
    assert under_test.said.getvalue().count("No space left on device") == 1
    under_test.supervisor.stop(at_once=lambda: True)


def test_an_answer_that_makes_no_sense_is_said_once_and_asked_again(running: Running) -> None:
    odd = [True]
    watched = running.supervisor._kept["b"].service
    before = watched.ready

    def ready() -> bool:
        if odd[0]:
            raise KeyError("pid")  # as another version's report once made it
        return before()

    watched.ready = ready
    psutil.Process(watched.pid).kill()
    wait_until(lambda: not running.tick_until_ready(), "the death is noticed")
    wait_until(lambda: running.tick_until_ready() or "KeyError" in running.said.getvalue(), "said")
    psutil.Process(running.supervisor.pids()["a"]).kill()
    wait_until(
        lambda: running.tick_until_ready() or "a is back" in running.said.getvalue(),
        "the others are looked after meanwhile",
    )
    odd[0] = False

    wait_until(running.tick_until_ready, "all are ready again")

    assert running.said.getvalue().count("b: KeyError: 'pid'; trying again") == 1


def test_a_service_that_cannot_be_spawned_again_is_tried_until_it_can(
    running: Running, tmp_path: Path
) -> None:
    spawned = running.supervisor._kept["b"].service
    before, spawned.argv = spawned.argv, [tmp_path / "no such program"]

    psutil.Process(spawned.pid).kill()
    wait_until(lambda: running.tick_until_ready() or "No such file" in running.said.getvalue(), "")
    spawned.argv = before

    wait_until(running.tick_until_ready, "it is back")
    assert running.supervisor.pids().keys() == {"a", "b", "c"}


def test_a_service_that_could_never_be_spawned_is_given_up_in_words(tmp_path: Path) -> None:
    missing = service(tmp_path, "missing")
    missing.argv = [tmp_path / "no such program"]

    with pytest.raises(ServiceError, match="missing cannot be started: No such file or directory"):
        Running([missing]).supervisor.start(interrupted=lambda: False)


def test_a_log_has_an_end_and_its_writer_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"old\n" * 1000)
        writer.write(b"late\n")

        bound(log, most_bytes=1000)
        writer.write(b"new\n")
        bound(log, most_bytes=1000)

    assert log.read_bytes() == b"new\n"  # no hole where the old ones were
    kept = (tmp_path / "log.1").read_bytes()
    assert len(kept) == 1000
    assert kept.endswith(b"late\n")


def test_the_logs_of_services_are_bounded_while_they_run(
    tmp_path: Path,
) -> None:
    code = WELL_BEHAVED.replace("while True:", "print('x' * 100_000, flush=True)\nwhile True:")
    loud = service(tmp_path, "loud", code=code)
    under_test = Running([loud], most_log_bytes=1000)

    assert under_test.supervisor.start(interrupted=lambda: False)
    wait_until(
        lambda: under_test.tick_until_ready() and loud.log.with_name("loud.log.1").exists(), ""
    )

    assert loud.log.stat().st_size == 0
    under_test.supervisor.stop(at_once=lambda: True)


def test_a_terminal_that_is_gone_ends_nothing(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", buffering=1) as terminal:
        progress = Progress(terminal)

        progress.say("b was killed by SIGKILL")
        progress.show("starting")

        with suppress(BrokenPipeError):
            terminal.close()
