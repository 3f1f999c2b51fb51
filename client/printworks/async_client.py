"""The client for asynchronous programs, on asyncio and trio.

    async with AsyncClient("http://127.0.0.1:8000") as printworks:
        job = await printworks.generate("a red bicycle", steps=30, seed=7)
        await printworks.save(job.images[0], "bicycle.png")

Knows the contract through `protocol` only. Invariant: both clients have the same methods.
client/generate_sync.py makes client.py of this file.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self, Unpack

import httpx2

from printworks import protocol
from printworks.async_administration import AsyncAdministration
from printworks.blocking import async_pause, async_write
from printworks.errors import Gone, NotFound
from printworks.events import Event, SseParser, StreamRetry, following
from printworks.protocol import Call
from printworks.types import (
    Group,
    Image,
    Input,
    Job,
    JobOptions,
    JobPage,
    JobRequest,
    Model,
    ModelList,
    Quote,
    Sampler,
    SamplerList,
    WebhookOptions,
)


class AsyncClient(AsyncAdministration):
    """One service, one key. Close the client, or use it in an `async with`."""

    def __init__(
        self,
        url: str = protocol.DEFAULT_URL,
        key: str | None = None,
        *,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self._known = False  # whether the service has ever answered
        self._http = httpx2.AsyncClient(
            base_url=self.url,
            headers=protocol.headers(key),
            timeout=protocol.TIMEOUT,
            trust_env=protocol.obeys_proxies(self.url),
            transport=transport,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def generate(
        self, prompt: str, *, timeout_s: float | None = None, **options: Unpack[JobOptions]
    ) -> Job:
        """Submit a job and wait for its images. Raises JobNotSucceeded, WaitTimeout."""
        job = await self.submit(prompt, **options)
        return protocol.success_of(await self.wait(job.id, timeout_s=timeout_s))

    async def submit(
        self, prompt: str, *, idempotency_key: str | None = None, **options: Unpack[JobOptions]
    ) -> Job:
        """Submit a job. When `submit` returns, the job is accepted once, even after retries."""
        call = protocol.submit(prompt, options, idempotency_key=idempotency_key)
        return protocol.read(Job, await self._send(call))

    async def quote(self, prompt: str, **options: Unpack[JobOptions]) -> Quote:
        """Validate a request and return its cost, without submitting a job."""
        return protocol.read(Quote, await self._send(protocol.quote(prompt, options)))

    async def rerun(self, job_id: str) -> Job:
        """Submit a new job with the same resolved values: the same seeds, so the same images."""
        return protocol.read(Job, await self._send(protocol.rerun(job_id)))

    async def submit_group(
        self, jobs: Sequence[JobRequest], *, webhook: WebhookOptions | None = None
    ) -> Group:
        """Submit up to 100 jobs together: all are accepted, or none.

        `webhook`: an endpoint for the event `group.completed`.
        """
        return protocol.read(Group, await self._send(protocol.submit_group(jobs, webhook)))

    async def group(self, group_id: str) -> Group:
        """Return the current state of a group and its jobs. Raises NotFound."""
        return protocol.read(Group, await self._send(protocol.group(group_id)))

    async def cancel_group(self, group_id: str) -> Group:
        """Cancel all jobs of a group that have not ended."""
        return protocol.read(Group, await self._send(protocol.group(group_id, "cancel")))

    async def upload(self, picture: str | Path | bytes, *, background: str | None = None) -> Input:
        """Upload an input image (a file, or its bytes) for use in jobs: `image={"input": id}`.

        `background`: "#rrggbb" under transparent parts; without a background they are refused.
        """
        return protocol.read(Input, await self._send(protocol.upload(picture, background)))

    async def delete_input(self, input_id: str) -> None:
        """Delete an input image, even if jobs wait for it; a deleted one is no error."""
        with suppress(NotFound):
            await self._send(protocol.input_image(input_id, method="DELETE"))

    async def get(self, job_id: str) -> Job:
        """Return the current state of a job. Raises NotFound, Gone."""
        return protocol.read(Job, await self._send(protocol.look(job_id)))

    async def wait(
        self,
        job_id: str,
        *,
        timeout_s: float | None = None,
        on_look: Callable[[Job], None] | None = None,
    ) -> Job:
        """Return the job when it has ended, in any status. Raises WaitTimeout after `timeout_s`.

        `on_look`: called with every state of the job that is read meanwhile.
        """
        pace = protocol.WaitPacing(timeout_s, watched=on_look is not None)
        while True:
            call = protocol.look(job_id, wait_s=pace.held_s())
            job = protocol.read(Job, await self._send(call))
            if on_look:
                on_look(job)
            if job.final:
                return job
            await async_pause(pace.pause_s(job))

    async def events(self, job_id: str, *, timeout_s: float | None = None) -> AsyncIterator[Event]:
        """Yield a job's live events until the job ends: a snapshot first, then every change.

        A stream that breaks is opened again. Raises WaitTimeout, NotFound, Gone, Busy (too many
        streams: `wait` still works).
        """
        call, watch = following(job_id), StreamRetry(timeout_s)
        while True:
            outcome: httpx2.Response | httpx2.TransportError | None = None
            try:
                async with self._http.stream(
                    call.method, call.path, headers=call.headers, timeout=watch.timeout
                ) as answer:
                    if not answer.is_success:
                        await answer.aread()
                        outcome = answer
                    else:
                        lines = SseParser()
                        async for line in answer.aiter_lines():
                            event = lines.take(line)
                            watch.heard(event)
                            if event is not None:
                                yield event
                                if event.last:
                                    return
            except httpx2.TransportError as error:
                outcome = error
            await async_pause(watch.pause_s(outcome, self.url))

    async def cancel(self, job_id: str) -> Job:
        """Cancel a job in any stage; a job that has ended stays as it is."""
        return protocol.read(Job, await self._send(protocol.cancel(job_id)))

    async def delete(self, job_id: str) -> None:
        """Cancel a job and delete its prompt and images; a deleted job is no error."""
        with suppress(Gone):  # also the answer when the first attempt's answer was lost
            await self._send(protocol.delete(job_id))

    async def list(
        self,
        *,
        status: str | None = None,
        model: str | None = None,
        cursor: str | None = None,
        limit: int = 20,
    ) -> JobPage:
        """Return one page of your jobs, newest first; `limit` is 1 to 100."""
        call = protocol.listing(status, model, cursor, limit)
        return protocol.read(JobPage, await self._send(call))

    async def jobs(
        self, *, status: str | None = None, model: str | None = None
    ) -> AsyncIterator[Job]:
        """Yield all your jobs, newest first, page by page."""
        cursor: str | None = None
        while True:
            page = await self.list(status=status, model=model, cursor=cursor, limit=100)
            for job in page.jobs:
                yield job
            cursor = page.next_cursor
            if cursor is None:
                return

    async def models(self) -> tuple[Model, ...]:
        """Return the models; the first is the default."""
        answer = await self._send(Call(method="GET", path="/v1/models"))
        return tuple(protocol.read(ModelList, answer).models)

    async def samplers(self) -> tuple[Sampler, ...]:
        """Return the samplers, and what each sampler is good for."""
        answer = await self._send(Call(method="GET", path="/v1/samplers"))
        return tuple(protocol.read(SamplerList, answer).samplers)

    async def image(self, image: Image) -> bytes:
        """Return the bytes of an image file."""
        answer = await self._send(Call(method="GET", path=image.url))
        return answer.content

    async def save(self, image: Image, path: str | Path) -> Path:
        """Write an image to a file. Raises OSError."""
        path = Path(path)
        await async_write(path, await self.image(image))
        return path

    async def _send(self, call: Call) -> httpx2.Response:
        """Return the successful answer to a call, with retries. Raises ApiError, Unreachable."""
        attempt = 0
        while True:
            outcome = await self._attempt(call)
            self._known = self._known or isinstance(outcome, httpx2.Response)
            delay_s = protocol.delay_s(attempt, outcome, known=self._known)
            if delay_s is None or call.once:
                return protocol.answer_of(outcome, self.url)
            await async_pause(delay_s)
            attempt += 1

    async def _attempt(self, call: Call) -> httpx2.Response | httpx2.TransportError:
        try:
            return await self._http.request(
                call.method,
                call.path,
                params=call.query or None,
                json=call.body,
                content=call.content,
                headers=call.headers,
            )
        except httpx2.TransportError as error:
            return error
