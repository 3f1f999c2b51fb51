"""The promise: a picture is the same alone and in any company, whatever the company does."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

import torch

from tests.engine.runs import alone, endings, finish, pixels, plain, run
from tests.engine.tiny import SIDE, a_request
from worker.engine.batcher import Engine
from worker.engine.lane_widths import LaneRule
from worker.engine.model import Model
from worker.messages import Canceled, Event, Failed, Finished, Progress, Started

UNLIKE = (
    {"sampler": "ddim", "steps": 4, "guidance_scale": 3.0},
    {"sampler": "euler_a", "steps": 7, "guidance_scale": 7.5},
    {"sampler": "heun", "steps": 5, "guidance_scale": 1.0},
    {"sampler": "dpmpp_2m_sde", "steps": 6, "width": 24},
    {"sampler": "pndm", "steps": 5, "negative_prompt": "blue"},
    {"sampler": "lcm", "steps": 3, "width": 16, "height": 32},
)


def test_unlike_images_together_are_bit_equal_to_plain_pipeline_calls(model: Model):
    requests = [a_request(seed=i, **unlike) for i, unlike in enumerate(UNLIKE)]

    ends = run(model, requests)

    guided = [r for r in requests if r.guidance_scale > 1]
    assert [pixels(ends[r.id]) for r in guided] == [plain(model, r) for r in guided]


def test_an_unguided_image_gets_the_same_bits_alone_and_in_company(model: Model):
    request = a_request(guidance_scale=1.0, sampler="euler")

    together = run(model, [a_request(seed=1), request, a_request(seed=2, guidance_scale=0.0)])

    assert pixels(together[request.id]) == alone(model, request)


def test_an_image_that_joins_in_mid_run_gets_the_bits_it_gets_alone(model: Model):
    engine, late = Engine([model]), a_request(seed=5, sampler="unipc")
    engine.submit(a_request(steps=12))
    events: list[Event] = []
    while not any(isinstance(e, Progress) and e.stage == "denoising" for e in events):
        events += engine.tick()

    engine.submit(late)
    events += finish(engine)

    assert pixels(endings(events)[late.id]) == plain(model, late)


def test_a_canceled_neighbour_leaves_at_once_and_changes_nothing(model: Model):
    # a second passes at every look at the clock, so that no progress is held back
    engine = Engine([model], clock=count(0.0, 1.0).__next__)
    kept, dropped = a_request(seed=3), a_request(seed=4, steps=50)
    engine.submit(kept)
    engine.submit(dropped)
    events: list[Event] = []
    while not any(isinstance(e, Progress) and e.id == dropped.id and e.calls for e in events):
        events += engine.tick()

    engine.cancel(dropped.id)
    assert engine.live == 1
    ends = endings(events + finish(engine))

    assert isinstance(ends[dropped.id], Canceled)
    assert 0 < ends[dropped.id].calls < 50
    assert pixels(ends[kept.id]) == plain(model, kept)


def test_a_parked_or_dropped_call_leaves_the_caller_its_gradients(model: Model):
    # pipelines switch gradients off for their thread, and a parked one has not switched them back
    engine, dropped = Engine([model]), a_request(seed=5, steps=50)
    engine.submit(dropped)
    engine.tick()
    assert torch.is_grad_enabled()

    engine.cancel(dropped.id)
    assert torch.is_grad_enabled()

    model.call_for(a_request(seed=6)).start(0.0)
    assert torch.is_grad_enabled()


def test_canceling_an_image_that_waits_costs_no_model_call(model: Model):
    engine, request = Engine([model]), a_request()
    engine.submit(request)

    engine.cancel(request.id)

    assert engine.tick() == [Canceled(id=request.id, calls=0)]
    assert engine.idle


def test_a_neighbour_that_cannot_be_made_fails_alone(model: Model):
    kept, broken = a_request(seed=3), a_request(width=33)  # no multiple of 8: the pipeline raises

    ends = run(model, [broken, kept])

    assert isinstance(ends[broken.id], Failed)
    assert ends[broken.id].code == "pipeline_error"
    assert pixels(ends[kept.id]) == plain(model, kept)


def test_an_unknown_model_or_sampler_fails_that_image_in_words(model: Model):
    ends = run(model, [a_request(id="a", model="none"), a_request(id="b", sampler="flow_euler")])

    assert (ends["a"].code, ends["b"].code) == ("unservable", "unservable")
    assert "none" in ends["a"].message
    assert "flow_euler" in ends["b"].message


def test_a_deadline_that_passed_ends_an_image_wherever_it_is(model: Model):
    now_s = [100.0]
    engine = Engine([model], clock=lambda: now_s[0], max_live=1)
    engine.submit(a_request(id="runs", deadline_s=110.0, steps=50))
    engine.submit(a_request(id="waits", deadline_s=110.0))
    events = engine.tick() + engine.tick()

    now_s[0] = 111.0
    ends = endings(events + finish(engine))

    assert {ends["runs"].code, ends["waits"].code} == {"deadline_exceeded"}


def test_the_events_of_an_image_tell_its_life_in_order(model: Model):
    engine, request = Engine([model]), a_request(steps=4)
    engine.submit(request)

    events = finish(engine)

    assert isinstance(events[0], Started)
    assert isinstance(events[-1], Finished)
    stages = [e.stage for e in events if isinstance(e, Progress)]
    assert list(dict.fromkeys(stages)) == ["encoding", "denoising", "decoding"]
    assert events[-1].calls == 4


def test_eight_unlike_images_share_their_model_calls(model: Model):
    requests = [
        a_request(seed=i, steps=8 + i % 2, sampler=("ddim", "euler")[i % 2]) for i in range(8)
    ]

    found = model.promises.at(SIDE, SIDE)
    # Widths of its own: on a busy machine the self-test keeps narrow ones only, and rightly so.
    widths = LaneRule((2, 4, 8, 16))
    wide = replace(found, cap_rows=widths.widest, lanes=widths)
    model.promises._verdicts[f"{SIDE}x{SIDE}"] = wide
    ends = run(model, requests)
    model.promises._verdicts[f"{SIDE}x{SIDE}"] = found

    assert min(end.batch_size_mean for end in ends.values() if isinstance(end, Finished)) >= 3


def test_the_same_prompt_is_encoded_once(model: Model):
    encoder = model.gates[0]
    calls, real = [], encoder.run
    encoder.run = lambda *args, **kwargs: calls.append(1) or real(*args, **kwargs)

    run(model, [a_request(seed=i, prompt="a blue boat") for i in range(3)])

    encoder.run = real
    assert len(calls) == 2  # the prompt and the empty negative prompt


def test_a_plain_call_in_the_same_process_passes_the_gates_untouched(model: Model):
    request = a_request()
    through_gates = plain(model, request)

    model.close()
    without_gates = plain(model, request)
    model.open()

    assert through_gates == without_gates
