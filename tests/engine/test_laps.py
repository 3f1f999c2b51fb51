"""The stopwatch of a device that works behind Python's back."""

from __future__ import annotations

import itertools

import torch

from worker.engine.device_timer import AHEAD, Laps

GPU = torch.device("cuda")


class Device:
    """Its queue: every mark is passed when it is waited for, one after another."""

    def __init__(self) -> None:
        self.passed = 0
        self.numbers = itertools.count(1)

    def mark(self, _: torch.device) -> Place:
        return Place(self, next(self.numbers))


class Place:
    def __init__(self, device: Device, number: int) -> None:
        self.device, self.number = device, number

    def query(self) -> bool:
        return self.number <= self.device.passed

    def synchronize(self) -> None:
        self.device.passed = max(self.device.passed, self.number)

    def elapsed_time(self, end: Place) -> float:
        return 1000.0 * (end.number - self.number)


def test_python_is_never_more_than_two_groups_ahead_of_the_device():
    device, told = Device(), list[float]()
    laps = Laps(lambda: 0.0, device.mark)

    for number in range(6):
        with laps.lap(GPU, told.append):
            pass
        assert len(told) == max(0, number + 1 - AHEAD)

    device.passed = 100
    laps.collect()
    assert told == [1.0] * 6


def test_nothing_is_waited_for_while_the_device_keeps_up():
    device, told = Device(), list[float]()
    laps = Laps(lambda: 0.0, device.mark)

    for _ in range(6):
        with laps.lap(GPU, told.append):
            pass
        device.passed = 100
        laps.collect()

    assert told == [1.0] * 6


def test_on_a_cpu_a_lap_is_over_when_it_returns():
    times, told = iter((1.0, 3.5)), list[float]()

    with Laps(lambda: next(times)).lap(torch.device("cpu"), told.append):
        pass

    assert told == [2.5]
