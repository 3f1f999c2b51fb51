"""What a request may say, and what it is told when it may not."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.contract.parsing import MAX_PROBLEMS, parse_request
from jobs.errors import InvalidRequest

HOSTILE = {
    "nan": b'{"prompt": "a cat", "guidance_scale": NaN}',
    "infinity": b'{"prompt": "a cat", "guidance_scale": 1e999}',
    "lone surrogate": b'{"prompt": "\\ud800"}',
    "bool as int": b'{"prompt": "a cat", "steps": true}',
    "string as int": b'{"prompt": "a cat", "steps": "20"}',
    "float as int": b'{"prompt": "a cat", "steps": 20.5}',
    "five megabytes": b'{"prompt": "' + b"a" * 5_000_000 + b'"}',
    "depth": b'{"prompt": "a cat", "metadata": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001,
    "huge int": b'{"prompt": "a cat", "seed": ' + b"9" * 5_000 + b"}",
    "not json": b"prompt=cat",
    "an array": b"[]",
    "null": b"null",
    "utf-16": '{"prompt": "a cat"}'.encode("utf-16"),
    "cut utf-8": b'{"prompt": "a \xc3"}',
    "empty": b"",
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_input_is_an_invalid_request_told_in_few_words(body: bytes):
    with pytest.raises(InvalidRequest) as refused:
        parse_request(body)

    problems = refused.value.problems
    told = json.dumps([[p.pointer, p.code, p.detail] for p in problems])
    assert problems
    assert len(told) < 2_000
    assert "aaaaaaaa" not in told  # never echoed


def test_an_unknown_field_is_refused_with_the_nearest_known_one():
    with pytest.raises(InvalidRequest) as refused:
        parse_request({"prompt": "a cat", "guidence_scale": 4.0})

    (problem,) = refused.value.problems
    assert problem.pointer == "/guidence_scale"
    assert problem.code == "unknown_field"
    assert "did you mean 'guidance_scale'?" in problem.detail


def test_a_thousand_wrong_fields_are_told_in_twenty_problems():
    with pytest.raises(InvalidRequest) as refused:
        parse_request({"prompt": "a cat"} | {f"x{k}": 1 for k in range(1000)})

    assert len(refused.value.problems) == MAX_PROBLEMS


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    body=st.binary(max_size=200) | st.text(max_size=200).map(lambda t: t.encode("utf-8", "replace"))
)
def test_no_bytes_make_anything_but_a_request_or_a_refusal(body: bytes):
    with suppress(InvalidRequest):
        parse_request(body)
