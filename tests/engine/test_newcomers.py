"""An image that brings something new (LoRA file, scale, size) waits, and holds up no other."""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from transformers import CLIPTextModel

from jobs.contract.loras import LoraFolder
from tests.engine.loras import write_lora
from tests.engine.runs import alone, endings, finish, pixels
from tests.engine.test_loras import a_model, by_vendor, made
from tests.engine.test_packing import RowWise, a_call
from tests.engine.tiny import SIDE, a_request
from worker.engine import exactness
from worker.engine.batcher import Engine
from worker.engine.capacity import SIZES_KEPT, VERDICTS_KEPT, Capacities
from worker.engine.exactness import Promises
from worker.engine.lane_widths import LaneRule
from worker.engine.model import Model
from worker.engine.selftest import Verdict
from worker.messages import Canceled, Event, Failed, ImageRequest, Lora, Started

pytestmark = pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning")
INK, GOLD = Lora(name="ink"), Lora(name="gold")
Calls = list[int]  # rows of each call of a network, in order


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Every call of every network from here on, whoever makes it."""
    seen: Calls = []
    for owner, method in (
        (UNet2DConditionModel, "forward"), (CLIPTextModel, "forward"), (AutoencoderKL, "decode"),
    ):  # fmt: skip
        _count(monkeypatch, owner, method, seen)
    return seen


def _count(monkeypatch: pytest.MonkeyPatch, owner: type, method: str, seen: Calls) -> None:
    real = getattr(owner, method)

    def counted(
        self: Any, *args: Any, **kwargs: Any
    ) -> Any:  # the same names, by which a gate sorts arguments
        first = (*args, *kwargs.values())[0]
        seen.append(len(first))
        return real(self, *args, **kwargs)

    counted.__signature__ = inspect.signature(real)  # type: ignore[attr-defined]
    monkeypatch.setattr(owner, method, counted)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_lora(tmp_path, "ink", seed=1)
    write_lora(tmp_path, "gold", seed=2)
    return tmp_path


@pytest.fixture
def model(folder: Path, calls: Calls) -> Iterator[Model]:
    made = a_model(folder, lane_width=None)
    made.promises.at(SIDE, SIDE)
    yield made
    made.close()


def under_way(model: Model, images: int = 4) -> tuple[Engine, list[ImageRequest]]:
    """That many pictures in the middle of their steps."""
    engine, requests = Engine([model]), [a_request(seed=i, steps=60) for i in range(images)]
    for request in requests:
        engine.submit(request)
    while engine.live < images:
        engine.tick()
    return engine, requests


def ticks(engine: Engine, calls: Calls, events: list[Event]) -> Iterator[Calls]:
    """Tick until all have ended; of each tick the rows of every network call."""
    while not engine.idle:
        before = len(calls)
        events += engine.tick()
        yield calls[before:]


@pytest.mark.parametrize(
    "new",
    [{"loras": (INK, GOLD)}, {"width": 24}],
    ids=["files", "size"],
)
def test_a_newcomer_takes_one_network_call_of_a_tick_at_most(
    model: Model, folder: Path, calls: Calls, new: dict[str, object]
):
    engine, others = under_way(model)
    newcomer, events = a_request(seed=9, **new), list[Event]()
    engine.submit(newcomer)

    waited = [tick for tick in ticks(engine, calls, events) if engine.preparing]

    print(f"\n{len(waited)} ticks, at most {max(map(len, waited))} calls in one")
    assert max(map(len, waited)) == 1
    assert sum(map(len, waited)) > 30  # the whole of a self-test
    ends = endings(events)
    assert made(ends[newcomer.id]).reproducibility == "exact"
    assert pixels(ends[newcomer.id]) == alone(model, newcomer)
    if "loras" in new:
        assert pixels(ends[newcomer.id]) == by_vendor(model, folder, newcomer)
    assert pixels(ends[others[0].id]) == alone(model, others[0])


def test_between_two_pieces_the_others_take_a_step(model: Model, calls: Calls):
    engine, _ = under_way(model)
    lives = list(engine._live.values())
    steps = lambda: sum(live.call.calls for live in lives)  # noqa: E731
    while not steps():
        engine.tick()
    engine.submit(a_request(loras=(INK,)))
    engine.tick()

    for _ in range(10):
        before = steps()
        engine.tick()
        engine.tick()
        assert steps() > before
    assert engine.preparing == "tiny"


def test_a_new_scale_costs_nothing_but_its_own_steps(model: Model, folder: Path, calls: Calls):
    first = a_request(loras=(INK,), steps=4)
    alone(model, first)
    tested, own = dict(model.promises._verdicts), model.weight_bytes
    engine = Engine([model])
    scaled = [a_request(loras=(Lora(name="ink", scale=i / 10),), steps=4) for i in range(-5, 6)]
    events: list[Event] = []
    before = len(calls)

    for request in scaled:
        engine.submit(request)
    for _ in ticks(engine, calls, events):
        assert engine.preparing is None

    ends = endings(events)
    assert len(calls) - before == len(scaled) * (4 + 2 + 1)  # steps, two encodings, a decoding
    assert (model.promises._verdicts, model.weight_bytes) == (tested, own)
    assert len({made(e).fingerprint for e in ends.values()}) == len(scaled)
    for request in scaled[::5]:
        assert pixels(ends[request.id]) == by_vendor(model, folder, request)


def test_images_at_unlike_scales_of_one_network_keep_their_bits(model: Model, folder: Path):
    scaled = [a_request(seed=i, loras=(Lora(name="ink", scale=0.3 * i),)) for i in range(4)]
    engine, together = Engine([model]), [*scaled, a_request(seed=8)]
    for request in together:
        engine.submit(request)

    ends = endings(finish(engine))

    for request in scaled:
        assert pixels(ends[request.id]) == by_vendor(model, folder, request)
    assert pixels(ends[together[-1].id]) == alone(model, together[-1])


def test_what_is_known_starts_at_once_while_something_new_is_prepared(model: Model):
    engine, _ = under_way(model, images=1)
    new, known = a_request(key="new", loras=(INK,)), a_request(key="known", steps=2)
    engine.submit(new)
    engine.tick()
    engine.submit(known)

    assert Started(id=known.id) in engine.tick()
    assert engine.preparing
    ends = endings(finish(engine))
    assert {new.id, known.id} <= ends.keys()


def test_a_canceled_newcomer_leaves_at_once_and_the_next_of_its_kind_gains_by_it(model: Model):
    engine, _ = under_way(model, images=1)
    engine.submit(dropped := a_request(loras=(INK,)))
    for _ in range(8):
        engine.tick()

    engine.cancel(dropped.id)

    assert Canceled(id=dropped.id, calls=0) in engine.tick()
    assert engine.waiting == 0
    finish(engine)
    assert model.prepared(dropped)
    assert torch.is_grad_enabled()


def test_a_newcomer_that_is_too_late_fails_and_leaves_at_once(model: Model):
    engine = Engine([model])
    engine.submit(late := a_request(loras=(INK,), deadline_s=time.monotonic() + 0.01))

    end = endings(finish(engine))[late.id]

    assert isinstance(end, Failed)
    assert end.code == "deadline_exceeded"


def test_an_engine_that_is_closed_in_mid_test_leaves_the_model_whole(model: Model, folder: Path):
    engine, _ = under_way(model, images=1)
    engine.submit(request := a_request(loras=(INK,)))
    for _ in range(9):
        engine.tick()

    engine.close()

    assert torch.is_grad_enabled()
    assert alone(model, request) == by_vendor(model, folder, request)


def test_verdicts_are_kept_for_the_last_that_were_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(exactness, "KEPT", 3)
    found = Promises("one", lambda w, h: [a_call(RowWise(), 2, 7.0)], state_dir=tmp_path)
    for width in (8, 16, 24):
        found.at(width, 8)
    found.at(8, 8)

    found.at(32, 8)

    assert [found.known(width, 8) for width in (8, 16, 24, 32)] == [True, False, True, True]
    assert len(found._tested) == 3  # and no more of the calls that they were found by
    again = Promises("one", lambda w, h: [], state_dir=tmp_path)
    assert [again.known(width, 8) for width in (8, 16, 24, 32)] == [True, False, True, True]


def test_capacities_are_kept_for_the_last_that_were_used():
    capacities = Capacities()
    for number in range(SIZES_KEPT + 50):
        verdict = Verdict("exact", LaneRule((2,)), cap_rows=2, rows_per_s=1.0)
        capacities.of(a_request(width=8 * number), verdict)
    for number in range(VERDICTS_KEPT + 50):
        verdict = Verdict("exact", LaneRule((2,)), cap_rows=2, rows_per_s=float(number))
        capacities.of(a_request(), verdict)

    assert len(capacities._known) <= SIZES_KEPT
    assert max(map(len, capacities._known.values())) == VERDICTS_KEPT


def test_digests_of_files_that_went_away_are_forgotten(tmp_path: Path):
    shelf = LoraFolder(tmp_path)
    for number in range(20):
        path = tmp_path / f"one-{number}.safetensors"
        path.write_bytes(b"%d" % number)
        assert not shelf.noted(path.stem)
        assert shelf.find(path.stem)
        assert shelf.noted(path.stem)
        path.unlink()

    assert len(shelf._digests) == 1
