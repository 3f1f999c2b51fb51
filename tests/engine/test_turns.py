"""Whose turn it is: sizes share the device by the votes of their images, nobody is left out."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from tests.engine.tiny import a_request
from worker.engine.admission import PRIORITY_STEP_S, level, urgency
from worker.engine.capacity import Capacity
from worker.engine.gates import Kind
from worker.engine.group_choice import Turns
from worker.engine.lane_widths import LaneRule
from worker.engine.selftest import Verdict

RULE = LaneRule((2, 4, 8, 16), (4.0, 6.0, 10.0, 18.0))


def a_capacity(cap_rows: int = 16) -> Capacity:
    fitting = LaneRule(*zip(*[(w, c) for w, c in zip(RULE.widths, RULE.cost_ms) if w <= cap_rows]))  # noqa: B905
    return Capacity(Verdict("exact", fitting, cap_rows, fitting.rows_per_s), row_ms=1.0)


@dataclass(eq=False)
class Parked:
    """What turns see of an image: where it is parked, whose it is and how urgent."""

    place: str
    key: str = ""
    priority: int = 0
    since_s: float = 0.0
    remaining_s: float = 10.0
    rows: int = 2
    kind: Kind = Kind.ROWS
    capacity: Capacity = field(default_factory=a_capacity)

    def __post_init__(self) -> None:
        self.request = a_request(key=self.key, priority=self.priority)
        self.call = self
        self.packed = self if self.kind is Kind.ROWS else None

    @property
    def rows_ms(self) -> float:
        return self.rows * self.capacity.row_ms

    def level(self, now_s: float) -> float:
        return level(self.request, now_s - self.since_s)

    def urgency(self, now_s: float) -> tuple[float, float]:
        waited_s = now_s - self.since_s
        return urgency(self.request, remaining_s=self.remaining_s, waited_s=waited_s)


def rows_by_place(lives: list[Parked], turns: int, now_s: float = 0.0) -> Counter[str]:
    """How many rows of each place ran in so many turns."""
    ours, rows = Turns(), Counter[str]()
    for _ in range(turns):
        group = ours.next_group(lives, now_s)
        assert len({live.place for live in group}) == 1
        rows[group[0].place] += sum(live.rows for live in group)
    return rows


def test_encodings_go_before_decodings_and_both_before_rows():
    encoding, decoding = Parked("a", kind=Kind.ENCODE), Parked("b", kind=Kind.DECODE)

    assert Turns().next_group([Parked("c"), decoding, encoding], 0.0) == [encoding]
    assert Turns().next_group([Parked("c"), decoding], 0.0) == [decoding]


def test_an_odd_size_neither_blocks_a_full_batch_nor_waits_for_its_end():
    crowd = [Parked("128x128", remaining_s=100.0) for _ in range(8)]
    odd = Parked("256x128", remaining_s=1.0)  # least remaining work, all by itself

    rows = rows_by_place([*crowd, odd], 100)

    assert 0.09 < rows["256x128"] / rows.total() < 0.13  # one image of nine


def test_a_key_with_one_odd_image_gets_as_much_as_a_key_with_eight():
    crowd = [Parked("128x128", key="many") for _ in range(8)]

    rows = rows_by_place([*crowd, Parked("256x128", key="one")], 90)

    assert 0.45 < rows["256x128"] / rows.total() < 0.55


def test_a_size_that_comes_late_has_no_claim_on_the_past():
    turns, first, second, late = Turns(), Parked("a"), Parked("b"), Parked("c")
    for _ in range(50):
        turns.next_group([first, second], 0.0)

    next_six = [turns.next_group([first, second, late], 0.0)[0] for _ in range(6)]

    assert next_six.count(late) == 2


def test_within_a_key_priority_goes_first_whatever_its_size():
    crowd = [Parked("128x128") for _ in range(8)]
    urgent = Parked("256x128", priority=1)

    assert set(rows_by_place([*crowd, urgent], 10)) == {"256x128"}


def test_an_odd_size_of_low_priority_is_never_starved():
    now_s = 2 * PRIORITY_STEP_S
    old = Parked("256x128", priority=-1, since_s=0.0)
    crowd = [Parked("128x128", since_s=now_s) for _ in range(8)]

    assert set(rows_by_place([*crowd, old], 5, now_s)) == {"256x128"}


def test_where_not_all_fit_every_key_has_an_image_in_the_group():
    capacity = a_capacity(4)
    many = [Parked("a", key="many", remaining_s=1.0, capacity=capacity) for _ in range(9)]
    one = Parked("a", key="one", remaining_s=50.0, capacity=capacity)

    group = Turns().next_group([*many, one], 0.0)

    assert one in group
    assert len(group) == 2


def test_where_not_all_fit_the_least_remaining_goes_first_until_age_outweighs_it():
    capacity = a_capacity(2)
    long = Parked("a", remaining_s=20.0, since_s=0.0, capacity=capacity)
    short = Parked("a", remaining_s=4.0, since_s=0.0, capacity=capacity)
    newcomer = Parked("a", remaining_s=4.0, since_s=29.0 + 4.0, capacity=capacity)

    assert Turns().next_group([long, short], 0.0) == [short]
    assert Turns().next_group([long, newcomer], 33.5) == [long]
