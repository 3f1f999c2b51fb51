"""Followers of jobs: one Redis subscription per process, any number of followers.

Owns the listening task and the followers' bounded state (one flag and the latest progress each:
a slow client costs no more than a quick one), and the task that checks their keys again. Must
not know HTTP. Invariants: a follower that missed an event is made to read the record again;
status events only trigger reads; no follower outlives its key by over KEYS_S and one read.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Collection, Generator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from api.errors import TooManyStreams, Unauthorized
from jobs.contract.events import AnyJobEvent, PreviewEvent, ProgressEvent, StatusEvent
from jobs.contract.record import JobRecord
from jobs.errors import StoreUnavailable
from jobs.store.job_store import AsyncJobStore

log = logging.getLogger(__name__)
REREAD_S = 10.0  # pub/sub is lossy: no snapshot stays outdated for much longer than this
GOLDEN = 0.618034  # the fractional parts of its multiples never bunch
RECONNECT_S = 0.5
KEYS_S = 3.0  # between two checks of the followers' keys: a revoked key ends within 5 s

KEY_ENDED = "the key of this request was revoked or has expired; connect again with another key"

LiveKeys = Callable[[Collection[str]], Awaitable[set[str]]]


class Follower:
    """One client's view of one job's events."""

    def __init__(
        self, job_id: str, *, wants_progress: bool, patience_s: float, key_id: str | None = None
    ) -> None:
        self.job_id = job_id
        self.key_id = key_id  # the API key of the request; None: keyless
        self.refused = False  # the key is no longer valid
        self.patience_s = patience_s  # silence after which the record is read again
        self.wants_progress = wants_progress
        self.stale = False  # the record has changed since it was read
        self.progress: ProgressEvent | None = None  # the latest not yet taken
        self.previews: set[int] = set()  # images of which there is a preview not yet taken
        self._news = asyncio.Event()

    def tell(self, event: AnyJobEvent) -> None:
        """Note an event; a newer progress replaces the older."""
        if isinstance(event, StatusEvent):
            self.look_again()
        elif self.wants_progress:
            if isinstance(event, PreviewEvent):
                self.previews.add(event.index)
            else:
                self.progress = event
            self._news.set()

    def look_again(self) -> None:
        """Make the follower read the record again."""
        self.stale = True
        self._news.set()

    def refuse(self) -> None:
        """Make the follower end: its key was revoked or has expired."""
        self.refused = True
        self._news.set()

    async def news(self, timeout_s: float) -> bool:
        """Wait for an event; return False after `timeout_s` without one."""
        try:
            async with asyncio.timeout(max(0.0, timeout_s)):
                await self._news.wait()
        except TimeoutError:
            return False
        self._news.clear()
        return True


class JobFollowers:
    """All followers of this process, and the tasks that notify them."""

    def __init__(
        self, store: AsyncJobStore, live_keys: LiveKeys, *, max_streams: int, max_tenant: int
    ) -> None:
        self._store = store
        self._live_keys = live_keys
        self._max_streams = max_streams
        self._max_tenant = max_tenant
        self._followers: defaultdict[str, set[Follower]] = defaultdict(set)
        self._of_tenant: Counter[str] = Counter()
        self._made = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self.draining = False

    async def __aenter__(self) -> Self:
        self._tasks = {
            asyncio.create_task(self._listen(), name="following"),
            asyncio.create_task(self._look_at_keys(), name="following-keys"),
        }
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.drain()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    @property
    def count(self) -> int:
        """Number of followers now."""
        return self._of_tenant.total()

    def check_room(self, tenant: str) -> None:
        """Raise TooManyStreams if the limit of followers is reached."""
        if self.count >= self._max_streams or self._of_tenant[tenant] >= self._max_tenant:
            raise TooManyStreams("too many streams are open; polling still works", retry_after_s=2)

    @contextmanager
    def follow(
        self,
        job_id: str,
        *,
        tenant: str,
        key_id: str | None = None,
        wants_progress: bool = False,
    ) -> Generator[Follower]:
        """Register a follower for the block; events reach it. Raises TooManyStreams."""
        self.check_room(tenant)
        self._made += 1
        # spread: a thousand that connect together must not all read at the same moment
        patience_s = REREAD_S * (0.75 + 0.5 * (self._made * GOLDEN % 1))
        follower = Follower(
            job_id, wants_progress=wants_progress, patience_s=patience_s, key_id=key_id
        )
        self._followers[job_id].add(follower)
        self._of_tenant[tenant] += 1
        try:
            yield follower
        finally:
            self._followers[job_id].discard(follower)
            if not self._followers[job_id]:
                del self._followers[job_id]
            self._of_tenant[tenant] -= 1
            if not self._of_tenant[tenant]:
                del self._of_tenant[tenant]

    async def until_final(
        self, record: JobRecord, wait_s: float, *, key_id: str | None = None
    ) -> JobRecord:
        """Return the record once it is final, or as it is after `wait_s` seconds.

        Raises Unauthorized once the key `key_id` is no longer valid.
        """
        clock = asyncio.get_running_loop().time
        until = clock() + wait_s
        with self.follow(record.id, tenant=record.tenant, key_id=key_id) as follower:
            while not self.draining:
                # read after the subscription: the record then holds every earlier change
                record = await self._store.read(record.id, tenant=record.tenant)
                left_s = until - clock()
                if record.status.final or left_s <= 0:
                    break
                await follower.news(min(left_s, follower.patience_s))
                if follower.refused:
                    raise Unauthorized(KEY_ENDED)
        return record

    def drain(self) -> None:
        """End every follower: the process is about to exit."""
        self.draining = True
        self._wake_all()

    def _wake_all(self) -> None:
        for followers in self._followers.values():
            for follower in followers:
                follower.look_again()

    async def _look_at_keys(self) -> None:
        """End followers whose key was revoked or has expired: one read for all, every KEYS_S."""
        while True:
            await asyncio.sleep(KEYS_S)
            try:
                await self._refuse_ended()
            except StoreUnavailable as error:  # then no job's events arrive, either
                log.warning("api.keys_not_looked_at", extra={"reason": str(error)})
            except Exception:  # a failing check must not be the last one
                log.exception("api.keys_not_looked_at")

    async def _refuse_ended(self) -> None:
        keyed = [f for all_of in self._followers.values() for f in all_of if f.key_id]
        live = await self._live_keys({f.key_id for f in keyed if f.key_id})
        for follower in keyed:
            if follower.key_id not in live:
                follower.refuse()

    async def _listen(self) -> None:
        while True:
            try:
                async for event in self._store.subscribe():
                    for follower in self._followers.get(event.job, ()):
                        follower.tell(event)
            except StoreUnavailable as error:
                log.warning("api.following_broke", extra={"reason": str(error)})
            self._wake_all()  # events published meanwhile are lost
            await asyncio.sleep(RECONNECT_S)
