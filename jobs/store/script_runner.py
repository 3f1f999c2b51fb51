"""Runner of Lua scripts: EVALSHA with reload, a concurrency limit, a 2 s deadline, WAIT.

Owns reloading the script cache, the limit of an event loop's concurrent calls, and the wait for
replicas. Knows no job. Invariant: whatever Redis does, an async call ends within CALL_BUDGET_S, in
a value or in one of `jobs.errors`; a write that must be on replicas is there when its call returns.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from redis import Redis
from redis.exceptions import NoScriptError

from jobs.errors import NotReplicated
from jobs.store import keys
from jobs.store.connection import CALL_BUDGET_S, connect, connect_async, translated
from jobs.store.scripts import Call

T = TypeVar("T")
CALLS_AT_ONCE = 32  # a burst of 200 otherwise opens 200 connections, and most of them too late
WAIT_MS = 600  # for replicas: it fits a connection's second of patience (measured: 0.3 to 1 ms)
SHORT_WAIT_MS = 50  # after a wait in vain, until one succeeds: or 32 waits would hold up all reads


class Replicas:
    """The number of replicas that must confirm a lasting call, and the wait for them."""

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self._wait_ms = WAIT_MS

    def needed_by(self, call: Call[Any]) -> bool:
        """Return True if this call must be on replicas before its answer."""
        return bool(self.wanted) and call.lasting

    def fill(self, pipeline: Any, *command: Any) -> None:
        """Add a command and the WAIT for replicas to a pipeline, on one connection.

        A dummy SET precedes WAIT: a replayed script writes nothing, and WAIT covers the last write
        of *this* connection only, so WAIT would confirm a write that another connection lost.
        """
        pipeline.execute_command(*command)
        pipeline.set(keys.PROBE, "1", ex=keys.PROBE_TTL_S)
        pipeline.execute_command("WAIT", self.wanted, self._wait_ms)

    def check(self, said: Sequence[Any]) -> int:
        """Return the number of replicas that confirmed. Raises the error of a refused command."""
        for one in said:
            if isinstance(one, Exception):
                raise one
        copies = int(said[-1])
        self._wait_ms = WAIT_MS if copies >= self.wanted else SHORT_WAIT_MS
        return copies

    def hold(self, copies: int) -> None:
        """Raise NotReplicated unless enough replicas confirmed."""
        if copies < self.wanted:
            raise NotReplicated(
                f"written on the primary, but only {copies} of {self.wanted} replicas confirmed: a"
                " failover may lose the write. Send the request again with the same"
                " Idempotency-Key: it is done once"
            )


class AsyncRunner:
    """Runner of calls for one event loop. Make one a process; `aclose` it at the end."""

    def __init__(self, redis_url: str, *, replicas: int = 0) -> None:
        self._redis: Any = connect_async(redis_url)
        self._replicas = Replicas(replicas)
        self._at_once = asyncio.Semaphore(CALLS_AT_ONCE)

    async def run(self, call: Call[T]) -> T:
        """Run one script; loads the script again if a restarted server has lost it."""
        if self._replicas.needed_by(call):
            return await self._run_lasting(call)
        async with self._in_time():
            try:
                reply = await self._redis.execute_command(*_by_sha(call))
            except NoScriptError:
                reply = await self._redis.execute_command(*_by_text(call))
        return call.parse(reply)

    async def _run_lasting(self, call: Call[T]) -> T:
        async with self._in_time():
            try:
                said = await self._with_copies(*_by_sha(call))
            except NoScriptError:
                said = await self._with_copies(*_by_text(call))
        value = call.parse(said[0])  # a refusal is raised here: nothing has to be replicated
        self._replicas.hold(int(said[-1]))
        return value

    async def _with_copies(self, *command: Any) -> Sequence[Any]:
        async with self._redis.pipeline(transaction=False) as pipeline:
            self._replicas.fill(pipeline, *command)
            said = await pipeline.execute(raise_on_error=False)
        self._replicas.check(said)
        return said

    async def command(self, name: str, *args: Any, **options: Any) -> Any:
        """Run one command, under the same limits."""
        async with self._in_time():
            return await getattr(self._redis, name)(*args, **options)

    async def aclose(self) -> None:
        """Give all connections back."""
        await self._redis.aclose()

    @asynccontextmanager
    async def _in_time(self) -> AsyncGenerator[None]:
        """Limit a call in number and time; the wait for a free slot counts towards the time."""
        with translated():
            async with asyncio.timeout(CALL_BUDGET_S), self._at_once:
                yield


class Runner:
    """Runner of calls where there is no event loop."""

    def __init__(self, redis: Redis | str, *, replicas: int = 0) -> None:
        self.redis: Redis = connect(redis) if isinstance(redis, str) else redis
        self._replicas = Replicas(replicas)

    def run(self, call: Call[T]) -> T:
        """Run one script. Raises StoreUnavailable, StorageFull, or the error in the answer."""
        if self._replicas.needed_by(call):
            return self._run_lasting(call)
        with translated():
            try:
                reply = self.redis.execute_command(*_by_sha(call))
            except NoScriptError:
                reply = self.redis.execute_command(*_by_text(call))
        return call.parse(reply)

    def _run_lasting(self, call: Call[T]) -> T:
        with translated():
            try:
                said = self._with_copies(*_by_sha(call))
            except NoScriptError:
                said = self._with_copies(*_by_text(call))
        value = call.parse(said[0])
        self._replicas.hold(int(said[-1]))
        return value

    def _with_copies(self, *command: Any) -> Sequence[Any]:
        with self.redis.pipeline(transaction=False) as pipeline:
            self._replicas.fill(pipeline, *command)
            said = pipeline.execute(raise_on_error=False)
        self._replicas.check(said)
        return said

    def close(self) -> None:
        """Give all connections back."""
        self.redis.close()


def _by_sha(call: Call[Any]) -> tuple[Any, ...]:
    return ("EVALSHA", call.script.sha, *_rest(call))


def _by_text(call: Call[Any]) -> tuple[Any, ...]:
    return ("EVAL", call.script.text, *_rest(call))


def _rest(call: Call[Any]) -> tuple[Any, ...]:
    return (len(call.keys), *call.keys, *call.args)
