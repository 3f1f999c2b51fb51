"""Server-sent events of a job.

Owns the names of the events: `snapshot` first, then `status`, `progress`, `preview`, `image`, at
last `done` (or `gone`, if the job was deleted; `unauthorized`, if the key ended before the job).
Invariant: a client that connects at any time has the whole state after the snapshot; so there is
nothing to resume, and events may be missed.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from api.access.auth import Reader
from api.access.request_body import JobId, base_url
from api.edge.openapi import problems
from api.errors import TooManyStreams, Unauthorized
from api.services.container import Services, ServicesDep
from api.services.job_followers import KEY_ENDED, Follower
from api.views.jobs import Job, job_of
from jobs.contract.record import JobRecord
from jobs.errors import JobGone, JobMissing, StoreUnavailable

router = APIRouter(prefix="/v1/jobs/{job_id}/events", tags=["jobs"])
STREAM = "text/event-stream"
HEARTBEAT_S = 12.5  # plus a failing read of Redis, 2 s: under the promised 15 s
EXAMPLE = (
    'event: snapshot\ndata: {"id": "...", "status": "running", ...}\n\n'
    'event: progress\ndata: {"stage": "denoising", "step": 7, "steps": 25, "fraction": 0.28}\n\n'
    'event: preview\ndata: {"index": 0, "step": 7, "content_type": "image/jpeg", "data": "..."}\n\n'
    'event: image\ndata: {"index": 0, "url": "...", ...}\n\n'
    'event: done\ndata: {"id": "...", "status": "succeeded", ...}\n\n'
)
ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "`snapshot`, `status` and `done` carry the Job; `image` one of its images.",
        "content": {STREAM: {"schema": {"type": "string"}, "example": EXAMPLE}},
    }
} | problems(JobMissing, JobGone, TooManyStreams)


@router.get("", summary="Follow a job's events", response_class=Response, responses=ANSWERS)
async def follow_job(
    request: Request, services: ServicesDep, caller: Reader, job_id: JobId
) -> Response:
    """Stream server-sent events; a comment every 15 s keeps proxies from closing the stream."""
    services.following.check_room(caller.tenant)
    record = await services.store.read(job_id, tenant=caller.tenant)
    return StreamingResponse(
        Stream(services, base_url(request), key_id=caller.key_id).of(record),
        media_type=STREAM,
        headers={"cache-control": "no-store", "x-accel-buffering": "no"},
    )


class Stream:
    """One event stream of a job, and the state last sent on it."""

    def __init__(
        self,
        services: Services,
        base: str,
        *,
        key_id: str | None,
        heartbeat_s: float = HEARTBEAT_S,
    ) -> None:
        self._services = services
        self._base = base
        self._key_id = key_id
        self._heartbeat_s = heartbeat_s
        self._said: Job | None = None
        self._ended = False

    async def of(self, record: JobRecord) -> AsyncGenerator[str]:
        """Yield the events of a job until the job or this process ends."""
        following = self._services.following
        with following.follow(
            record.id, tenant=record.tenant, key_id=self._key_id, wants_progress=True
        ) as follower:
            yield "retry: 2000\n\n"
            follower.stale = True  # the job may have changed before the subscription
            if record.spec.preview:
                follower.previews.update(range(record.spec.n))
            clock = asyncio.get_running_loop().time
            said_s = clock()
            while not self._ended:
                if follower.refused:  # before any further event
                    yield event("unauthorized", {"code": Unauthorized.code, "detail": KEY_ENDED})
                    return
                for look in (self._look, self._previews):
                    for text in await look(follower, record):
                        yield text
                        said_s = clock()
                if following.draining:
                    yield ": this process is ending; connect again\n\n"
                    return
                left_s = self._heartbeat_s - (clock() - said_s)
                heard = self._ended or await follower.news(min(follower.patience_s, left_s))
                follower.stale |= not heard  # no message: read the job, one may have been missed
                # by the clock, too: while Redis is unavailable there is news, but no event to send
                if not heard or clock() - said_s >= self._heartbeat_s:
                    yield ": still here\n\n"  # proxies close a stream that is silent for 30 to 60 s
                    said_s = clock()

    async def _look(self, follower: Follower, record: JobRecord) -> list[str]:
        """Return the events that are due now."""
        news = follower.progress
        follower.progress = None
        if follower.stale:
            follower.stale = False
            try:
                fresh = await self._services.store.read(record.id, tenant=record.tenant)
            except StoreUnavailable:
                return []  # Redis is unavailable; the next read is soon
            except JobMissing:
                self._ended = True
                return [event("gone", {"id": record.id})]
            return list(self._changes(job_of(fresh, self._base)))
        if news is None:
            return []
        fraction = round(news.step / news.steps, 4) if news.steps else 0.0
        shown = {
            "stage": news.stage,
            "step": news.step,
            "steps": news.steps,
            "fraction": fraction,
        }
        return [event("progress", shown)]

    async def _previews(self, follower: Follower, record: JobRecord) -> list[str]:
        """Return the new preview images, as the JSON that the worker wrote."""
        wanted = follower.previews.copy()
        follower.previews.clear()
        if not wanted or self._ended:
            return []
        try:
            shown = await self._services.store.previews(record.id)
        except StoreUnavailable:
            return []
        return [f"event: preview\ndata: {shown[i]}\n\n" for i in sorted(wanted & shown.keys())]

    def _changes(self, job: Job) -> Iterator[str]:
        """Yield the events that lead from the last state sent to `job`."""
        said, self._said = self._said, job
        if said is None:
            yield event("snapshot", job)
        elif (said.status, said.stage, said.queue) != (job.status, job.stage, job.queue):
            if not job.status.final:
                yield event("status", job)
        elif said.progress != job.progress:
            yield event("progress", {"stage": job.stage, **job.progress.model_dump()})
        known = len(said.images) if said else 0
        for image in job.images[known:]:
            yield event("image", image)
        if job.status.final:
            self._ended = True
            yield event("done", job)


def event(name: str, data: Any) -> str:
    """Format one event. JSON has no line break outside of strings, so one data line is enough."""
    text = data.model_dump_json() if hasattr(data, "model_dump_json") else json.dumps(data)
    return f"event: {name}\ndata: {text}\n\n"
