"""SDXL in float16: its VAE overflows, and its pipeline turns it to float32 for each decoding."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.engine.families import sdxl
from tests.engine.runs import alone, pixels, plain, run
from tests.engine.tiny import a_model, a_request, tiny_vae
from worker.engine.model import Model


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    pipeline = sdxl()
    pipeline.vae = tiny_vae(force_upcast=True)
    said = pipeline.encode_prompt
    pipeline.encode_prompt = lambda *a, **k: tuple(t.half() for t in said(*a, **k))
    made = a_model(pipeline.to(torch.float16), dtype="float16", lane_width=8)
    yield made
    made.close()


def test_pictures_that_are_decoded_one_after_another_keep_their_bits(model: Model):
    # They reach their decodings at one tick: the first had turned the VAE to float32 and back
    # between the second's look at it and its turn, which was then decoded in float16.
    requests = [a_request(seed=i, steps=2, sampler="euler") for i in range(3)]
    wanted = [alone(model, request) for request in requests]

    ends = run(model, requests)

    assert [pixels(ends[r.id]) for r in requests] == wanted
    assert wanted[0] == plain(model, requests[0])  # half's products are of one kind here


def test_a_canceled_decoding_leaves_the_vae_as_it_was(model: Model):
    request = a_request(steps=1, sampler="euler")
    wanted = plain(model, request)
    types = {p.dtype for p in model.pipeline.vae.parameters()}
    call = model.call_for(request)
    call.start(0.0)
    with torch.no_grad():
        while call.parked and call.stage != "decoding":
            call.answer(call.parked.gate.run(**call.parked.arguments), batch_size=1)

    call.throw(RuntimeError("canceled, say"))

    assert {p.dtype for p in model.pipeline.vae.parameters()} == types
    assert alone(model, request) == wanted
