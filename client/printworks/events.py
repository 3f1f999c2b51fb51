"""Live events of a job, and the parser of server-sent events (SSE).

Owns the reading of server-sent events, without any I/O. Invariant: every new connection starts
with a snapshot, so a stream that breaks costs nothing but time; a newer service may send events
that are not named here.
"""

from __future__ import annotations

import base64
import json
import time
from dataclasses import dataclass
from typing import Any

import httpx2

from printworks import protocol
from printworks.errors import PrintworksError, WaitTimeout
from printworks.protocol import Call
from printworks.types import Image, Job, Progress

SILENCE_S = 40.0  # the service sends a line at least every 15 s
SHORT_SILENCE_S = 2.0  # with a timeout: the longest wait beyond it
LAST = frozenset({"done", "gone"})


@dataclass(frozen=True, slots=True)
class Event:
    """One event: snapshot, status, progress, image, preview, done, gone, or an unknown newer name.

    `data` is the event's JSON; `job`, `progress` and `image` are its typed value, or None.
    """

    name: str
    data: dict[str, Any]

    @property
    def job(self) -> Job | None:
        """The whole job, of the events snapshot, status and done."""
        known = self.name in ("snapshot", "status", "done")
        return Job.model_validate(self.data) if known else None

    @property
    def progress(self) -> Progress | None:
        """Model calls done and expected, of the event progress."""
        return Progress.model_validate(self.data) if self.name == "progress" else None

    @property
    def image(self) -> Image | None:
        """One image, of the event image."""
        return Image.model_validate(self.data) if self.name == "image" else None

    @property
    def preview(self) -> bytes | None:
        """A small JPEG file of the unfinished image, of the event preview (`preview=True`)."""
        return base64.b64decode(self.data["data"]) if self.name == "preview" else None

    @property
    def last(self) -> bool:
        """True if the stream ends with this event."""
        return self.name in LAST

    def onto(self, job: Job) -> Job:
        """Return `job` as of after this event."""
        if self.job is not None:
            return self.job
        if self.progress is None:
            return job
        seen = {"progress": self.progress, "stage": self.data.get("stage", job.stage)}
        return job.model_copy(update=seen)


class SseParser:
    """A parser from lines to events; comments and data that is not JSON are skipped."""

    def __init__(self) -> None:
        self._name, self._data = "", ""

    def take(self, line: str) -> Event | None:
        """Take one line; return the event that ends with this line, or None."""
        field, _, value = line.partition(":")
        if field == "event":
            self._name = value.removeprefix(" ")
        elif field == "data":
            self._data += value.removeprefix(" ")
        elif not line:
            name, data, self._name, self._data = self._name, self._data, "", ""
            try:
                return Event(name, json.loads(data)) if name and data else None
            except ValueError:
                return None
        return None


class StreamRetry:
    """The time limit of an event stream, and the delays before its retries."""

    def __init__(self, timeout_s: float | None) -> None:
        self._timeout_s = float("inf") if timeout_s is None else timeout_s
        self._until = time.monotonic() + self._timeout_s
        self._failed = 0
        self._job: Job | None = None

    @property
    def timeout(self) -> httpx2.Timeout:
        """Time limits of one request."""
        left_s = self._until - time.monotonic()
        limited = self._timeout_s != float("inf")
        silence_s = min(max(left_s, 0.1), SHORT_SILENCE_S) if limited else SILENCE_S
        return httpx2.Timeout(10.0, read=silence_s)

    def heard(self, event: Event | None) -> None:
        """Note a line of the stream, and its event. Raises WaitTimeout when the time is over."""
        if event is not None:
            self._failed = 0
            self._job = event.job or self._job
            if event.last:
                return
        self._check()

    def pause_s(self, outcome: httpx2.Response | httpx2.TransportError | None, url: str) -> float:
        """Return the seconds until the next attempt. Raises ApiError, Unreachable, WaitTimeout.

        `outcome` None: the service ended the stream, as a restarting service does.
        """
        self._check()
        if isinstance(outcome, httpx2.ReadTimeout) and self._timeout_s != float("inf"):
            return 0.0  # SHORT_SILENCE_S is over, not the stream
        broken = outcome or httpx2.ReadError("the stream ended")
        delay_s = protocol.delay_s(self._failed, broken, known=self._job is not None)
        if delay_s is None:
            protocol.answer_of(broken, url)
            raise PrintworksError("unreachable")  # answer_of raised
        self._failed += 1
        return delay_s

    def _check(self) -> None:
        if self._job is not None and time.monotonic() >= self._until:
            raise WaitTimeout(self._job, self._timeout_s)


def following(job_id: str) -> Call:
    """Open the event stream of a job."""
    return Call(
        method="GET",
        path=f"{protocol.look(job_id).path}/events",
        headers={"accept": "text/event-stream"},
    )
