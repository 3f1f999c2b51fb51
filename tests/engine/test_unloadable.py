"""A model that cannot be loaded: said at once, and in nobody else's way. A real engine process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.contract.model_file import Catalogue
from tests.engine.test_link import events_until
from tests.engine.tiny import a_request, an_entry, tiny_pipeline
from worker.engine_link import EngineLink
from worker.messages import (
    EngineConfig,
    EngineDied,
    Failed,
    Fatal,
    Finished,
    Loading,
    Ready,
    Unloadable,
)

pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("engine-process")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("models")
    tiny_pipeline().save_pretrained(made / "tiny", safe_serialization=True)
    (made / "torn").mkdir()
    (made / "torn" / "model_index.json").write_text("{")
    return made


def started(folder: Path, **sources: str) -> EngineLink:
    models = tuple(an_entry(id=name, source=source) for name, source in sources.items())
    catalogue = Catalogue(models=models, folder=folder)
    link = EngineLink(EngineConfig(catalogue=catalogue, threads=1, device="cpu"))
    link.start()
    return link


@pytest.fixture(scope="module")
def mixed(folder: Path) -> Iterator[EngineLink]:
    link = started(folder, lost="nowhere", tiny="tiny", torn="torn")
    yield link
    link.stop(grace_s=5.0)


def test_one_bad_model_among_several_takes_nobody_down(mixed: EngineLink):
    events = events_until(mixed, lambda seen: any(isinstance(e, Ready) for e in seen))

    broken = {e.model: e.message for e in events if isinstance(e, Unloadable)}
    (ready,) = (e for e in events if isinstance(e, Ready))
    shares = [e.fraction for e in events if isinstance(e, Loading) and e.model == "tiny"]
    assert set(broken) == {"lost", "torn"}
    assert "is no folder below" in broken["lost"]
    assert [report.model for report in ready.models] == ["tiny"]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.0, 1.0)


def test_images_for_the_bad_one_fail_with_the_reason_and_others_are_made(mixed: EngineLink):
    events_until(mixed, lambda _: mixed.ready)
    bad, good = a_request(model="torn"), a_request(model="tiny")
    for request in (bad, good):
        mixed.submit(request)

    events = events_until(
        mixed, lambda seen: sum(isinstance(e, Failed | Finished) for e in seen) == 2
    )

    ends = {e.id: e for e in events if isinstance(e, Failed | Finished)}
    assert isinstance(ends[good.id], Finished)
    failed = ends[bad.id]
    assert isinstance(failed, Failed)
    assert failed.code == "model_load_failed"


def test_with_no_usable_model_the_engine_says_so_and_ends(folder: Path):
    link = started(folder, lost="nowhere", torn="torn")

    events = events_until(link, lambda seen: any(isinstance(e, EngineDied) for e in seen))

    link.stop(grace_s=0)
    (fatal,) = (e for e in events if isinstance(e, Fatal))
    assert fatal.code == "model_load_failed"
    assert "nowhere" in fatal.message
    assert "torn" in fatal.message
    (died,) = (e for e in events if isinstance(e, EngineDied))
    assert died.cause == "failed_to_start"
