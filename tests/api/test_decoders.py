"""Decoders are shared: whatever one tenant's pictures do to them, a stranger's is decoded."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable

import pytest

from api.uploads.decoder_pool import PROGRAM, Decoders, Pixels, Undecodable
from api.uploads.image_header import MAX_SCANS, overdone
from api.uploads.tenant_places import Turns
from tests.api.hostile_pictures import a_picture, encoded, progressive, scans, with_exif

SLOW = (sys.executable, "-m", "tests.api.slow_decoder")
GOOD = encoded(a_picture())


def with_decoders(use: Callable[[Decoders], Awaitable[None]], *, decode_s: float = 20.0) -> None:
    """Run `use` with real decoder processes that `hang` and `burn` bring to a stand."""

    async def run() -> None:
        async with Decoders(max_pixels=10_000, decode_s=decode_s, program=SLOW) as decoders:
            await use(decoders)

    asyncio.run(run())


async def code_of(decoding: Awaitable[Pixels]) -> str:
    try:
        await decoding
    except Undecodable as refused:
        return refused.code
    return "decoded"


def test_two_slow_pictures_of_a_tenant_leave_a_decoder_for_others():
    async def use(decoders: Decoders) -> None:
        def send(data: bytes, tenant: str) -> asyncio.Task[str]:
            return asyncio.create_task(
                code_of(decoders.decode(data, tenant=tenant, max_bytes=10_000))
            )

        slow = [send(b"hang", "greedy") for _ in range(3)]
        strangers = [await send(GOOD, f"t{k}") for k in range(3)]

        assert strangers == ["decoded"] * 3
        assert not any(task.done() for task in slow)
        for task in slow:
            task.cancel()
        await asyncio.wait(slow)

    with_decoders(use)


def test_a_picture_has_so_much_cpu_time_and_then_its_process_ends():
    async def use(decoders: Decoders) -> None:
        burned = await code_of(decoders.decode(b"burn", tenant="a", max_bytes=10_000))
        after = await code_of(decoders.decode(GOOD, tenant="a", max_bytes=10_000))

        assert (burned, after) == ("too_slow", "decoded")

    with_decoders(use)


def test_a_process_has_that_time_for_each_picture_anew():
    async def use(decoders: Decoders) -> None:
        for _ in range(30):  # together more than half a second
            assert await code_of(decoders.decode(GOOD, tenant="a", max_bytes=10_000)) == "decoded"

    with_decoders(use)


def test_what_waits_without_computing_ends_by_the_clock():
    async def use(decoders: Decoders) -> None:
        assert await code_of(decoders.decode(b"hang", tenant="a", max_bytes=99)) == "too_slow"

    with_decoders(use, decode_s=0.2)


def test_a_decoder_writes_nothing_of_a_picture_into_the_log():
    data = with_exif(5_000)
    asked = {"what": "decode", "base64": False, "max_bytes": 99_999, "background": None}
    line = json.dumps({**asked, "bytes": len(data)}).encode() + b"\n"

    done = subprocess.run(
        [*PROGRAM, "100000"], input=line + data, capture_output=True, check=True, timeout=60
    )

    assert json.loads(done.stdout.splitlines()[0])["width"] == 48
    assert done.stderr == b""


# --- whose turn it is


def test_a_tenant_with_less_comes_first_and_none_has_all():
    taken: list[str] = []

    async def run() -> None:
        turns, go = Turns(3, most_each=2), asyncio.Event()

        async def hold(tenant: str) -> None:
            async with turns.take(tenant, timeout_s=5):
                taken.append(tenant)
                await go.wait()

        async def begun(tenants: str) -> list[asyncio.Task[None]]:
            tasks = [asyncio.create_task(hold(t)) for t in tenants]
            for _ in range(5):
                await asyncio.sleep(0)
            return tasks

        tasks = await begun("aaaa")
        assert taken == ["a", "a"]
        tasks += await begun("bbc")
        assert taken == ["a", "a", "b"]
        tasks[0].cancel()
        await begun("")
        assert taken == ["a", "a", "b", "c"]  # it holds nothing, and they one each
        go.set()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(run())

    assert sorted(taken) == ["a", "a", "a", "a", "b", "b", "c"]


def test_who_gives_up_waiting_leaves_no_place_taken():
    async def run() -> list[str]:
        turns, told = Turns(1, most_each=1), []
        for _ in range(3):
            async with turns.take("a", timeout_s=1):
                with pytest.raises(TimeoutError):
                    async with turns.take("b", timeout_s=0.01):
                        told.append("never")
                waiting = asyncio.create_task(turns.take("c", timeout_s=5).__aenter__())
                await asyncio.sleep(0)
            waiting.cancel()  # in the moment that its turn has come
            await asyncio.wait([waiting])
        async with turns.take("d", timeout_s=1):
            told.append("free")
        return told

    assert asyncio.run(run()) == ["free"]


# --- what is looked at before


@pytest.mark.parametrize("more", [0, 50, MAX_SCANS, 20_000])
def test_scans_are_counted_in_the_file(more: int):
    own = progressive().count(b"\xff\xda")
    refused = overdone(scans(progressive(), more))

    assert (refused is not None) == (own + more > MAX_SCANS)
    assert refused is None or re.search(r"more than 100 scans", refused)


def test_scans_inside_of_segments_and_behind_the_end_are_none():
    inside = b"\xff\xe1" + (402).to_bytes(2, "big") + b"\xff\xda" * 200  # a thumbnail in EXIF
    behind = b"\xff\xda\x00\x02" * 200  # an MPO's second picture
    good = encoded(a_picture(), "JPEG")

    assert overdone(good[:2] + inside + good[2:] + behind) is None


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xd8" + b"\xff" * 3_000_000 + b"\x00",
        b"\xff\xd8" + b"\xff\x00" * 1_500_000,
        b"\xff\xd8" + b"\xff\xd0" * 1_500_000,
        b"\xff\xd8\xff\xda\x00\x02" + b"\xff\xff\x00" * 1_000_000,
    ],
)
def test_a_file_that_is_all_markers_is_looked_at_once(data: bytes):
    assert overdone(data) is None  # a pattern that looked back would take hours
