"""An API that is killed while groups are sent: each is whole or not there, and sent again one."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
from pathlib import Path

import httpx2
from redis import Redis

from tests.api.test_process import environ, process
from tests.helpers import wait_until

__all__ = ["environ"]  # a fixture

GROUPS, SIZE = 40, 20


def groups_in(redis: Redis) -> dict[str, list[str]]:
    """Every group that Redis has, after a look at whether it is whole."""
    found: dict[str, list[str]] = {}
    for key in redis.scan_iter("pw:group:*"):
        if not key.endswith(b":ends"):
            group = json.loads(redis.get(key))
            found[group["id"]] = group["jobs"]
    jobs = {key.decode().split(":")[2] for key in redis.scan_iter("rq:job:*")}
    assert jobs == {job for of_group in found.values() for job in of_group}
    assert {len(set(of_group)) for of_group in found.values()} <= {SIZE}
    for group_id in found:
        assert redis.hget(f"pw:group:{group_id}:ends", "left") == b"%d" % SIZE
    return found


async def send_all(url: str) -> list[list[str]]:
    """The answers to every group, each sent again until it is accepted; IDs in their order."""

    async def one(client: httpx2.AsyncClient, k: int) -> list[str]:
        body = {"jobs": [{"prompt": f"{k} {j}"} for j in range(SIZE)]}
        while True:
            try:
                headers = {"idempotency-key": f"k{k}"}
                answer = await client.post("/v1/job-groups", json=body, headers=headers)
            except httpx2.TransportError:
                await asyncio.sleep(0.05)
                continue
            if answer.status_code == 202:
                return [answer.json()["id"], *(job["id"] for job in answer.json()["jobs"])]

    async with httpx2.AsyncClient(base_url=url, timeout=30) as client:
        return list(await asyncio.gather(*(one(client, k) for k in range(GROUPS))))


def test_an_api_killed_at_any_moment_leaves_whole_groups_only(
    root: Path, environ: dict[str, str], redis: Redis
):
    quiet = environ | {"PRINTWORKS_API_LOG_LEVEL": "warning"}  # nobody reads the pipe
    with socket.create_server(("127.0.0.1", 0), backlog=GROUPS) as bound:
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        fd = bound.fileno()

        async def through_three_deaths() -> list[list[str]]:
            sending = asyncio.create_task(send_all(url))
            for least in (5, 15, 25):
                with process(root, quiet, "--fd", str(fd), fd=fd) as api:
                    await asyncio.to_thread(killed_once, api, redis, least)
                groups_in(redis)
            with process(root, quiet, "--fd", str(fd), fd=fd):
                return await sending

        answers = asyncio.run(through_three_deaths())

    found = groups_in(redis)
    assert {answer[0]: answer[1:] for answer in answers} == found
    assert len(found) == GROUPS


def killed_once(api: subprocess.Popen[str], redis: Redis, least: int) -> None:
    """Kill it in the middle: when so many groups are there."""
    wait_until(lambda: redis.hlen("pw:backlog:demo") and count(redis) >= least * SIZE, "sent", 60)
    api.kill()
    api.wait()


def count(redis: Redis) -> int:
    return int(redis.hget("pw:backlog:demo", "jobs"))
