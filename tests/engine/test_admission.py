"""Who is next: fair between keys, short before long, nobody for ever."""

from __future__ import annotations

from tests.engine.tiny import a_request
from worker.engine.admission import PRIORITY_STEP_S, WaitingLine
from worker.messages import ImageRequest


def steps_of(request: ImageRequest) -> float:
    return float(request.steps)


def taken_from(line: WaitingLine, now_s: float = 0.0) -> str:
    found = line.take(now_s)
    assert found is not None
    return found[0].id


def order(line: WaitingLine, now_s: float = 0.0) -> list[str]:
    taken: list[str] = []
    while line:
        taken.append(taken_from(line, now_s))
    return taken


def a_line(*requests: ImageRequest) -> WaitingLine:
    line = WaitingLine(steps_of)
    for request in requests:
        line.add(request, now_s=0.0)
    return line


def test_the_least_work_goes_first():
    line = a_line(a_request(id="long", steps=50), a_request(id="short", steps=4))

    assert order(line) == ["short", "long"]


def test_a_long_one_that_waited_goes_before_a_short_newcomer():
    line = a_line(a_request(id="long", steps=20))
    line.add(a_request(id="short", steps=4), now_s=33.0)

    assert order(line, now_s=33.0) == ["long", "short"]


def test_a_higher_priority_goes_first_until_age_outweighs_it():
    line = a_line(a_request(id="low", priority=0))
    late_s = PRIORITY_STEP_S * 2
    line.add(a_request(id="high", priority=1), now_s=late_s)

    assert order(a_line(a_request(id="low"), a_request(id="high", priority=1)))[0] == "high"
    assert order(line, now_s=late_s)[0] == "low"


def test_a_key_with_many_images_does_not_hold_up_a_key_with_one():
    many = [a_request(id=f"many-{i}", key="many", steps=4) for i in range(4)]
    line = a_line(*many, a_request(id="one", key="one", steps=4))

    assert "one" in order(line)[:2]


def test_keys_take_turns_by_work_and_not_by_count():
    big = [a_request(id=f"big-{i}", key="big", steps=40) for i in range(2)]
    small = [a_request(id=f"small-{i}", key="small", steps=10) for i in range(4)]

    taken = order(a_line(*big, *small))

    assert taken.index("big-1") > taken.index("small-3")


def test_a_flood_that_grew_old_does_not_hold_up_a_key_that_just_came():
    old = [a_request(id=f"old-{i}", key="many", priority=1) for i in range(9)]
    line, now_s = a_line(*old), PRIORITY_STEP_S * 10

    line.take(now_s)
    line.add(a_request(id="new", key="one"), now_s)

    assert "new" in order(line, now_s)[:2]


def test_a_key_that_was_away_has_no_claim_on_the_past():
    line = a_line(*[a_request(id=f"a-{i}", key="a", steps=10) for i in range(6)])
    for _ in range(3):
        line.take(0.0)
    for i in range(3):
        line.add(a_request(id=f"b-{i}", key="b", steps=10), now_s=0.0)

    assert set(order(line)[:2]) == {"a-3", "b-0"}
