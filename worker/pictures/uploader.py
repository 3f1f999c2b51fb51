"""From pixels to a stored picture: encode, hash, upload, off the main loop.

Owns a few threads and the spool: pictures that wait because the picture store is away. Knows no
Redis and no engine. Invariant: pixels once made are never made again; a picture is uploaded until
it is stored or its job is dropped, and how much may wait so is bounded (`full`).
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections import deque
from dataclasses import dataclass

from jobs.blobs import BlobStore
from jobs.contract.record import Image, JobError
from jobs.contract.request_parts import FORMATS
from jobs.contract.spec import JobSpec
from jobs.errors import BlobsUnavailable
from jobs.store import keys
from jobs.store.counters import PendingCounts
from jobs.tracing.spans import OFF, Tracing
from worker.daemon_threads import Threads
from worker.messages import Finished
from worker.pictures.content_check import Checker, picture_of, refusal
from worker.pictures.encoding import encode
from worker.pictures.spool import Held, Spool

log = logging.getLogger(__name__)

FIRST_RETRY_S, LAST_RETRY_S = 0.5, 10.0
CLOSE_S = 1.0
UNSTORABLE = JobError(
    code="internal", message="its picture could not be written to a file", retryable=True
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToStore:
    """A finished image on its way to the store. `image_id` is the engine's name of it."""

    image_id: str
    job_id: str
    tenant: str
    index: int
    seed: int
    spec: JobSpec
    finished: Finished
    trace: str | None = None  # traceparent of the work on its job


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """It is there. `upload_ms`: from pixels to stored, encoding and waiting included."""

    image_id: str
    image: Image
    upload_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Unstorable:
    """It will not be stored: a fault of ours that no second try mends, or it may not be shown."""

    image_id: str
    error: JobError
    again: bool = False  # whether making it once more may help


@dataclass(frozen=True, slots=True)
class _Encoded:
    """A picture in the spool, on its way to the store."""

    image_id: str
    image: Image
    held: Held
    began_s: float  # monotonic
    trace: str | None


class Finishing:
    """The threads. `store` gives them work, `done` says what is stored since.

    A picture that the store refuses is parked, and no thread waits for it: while the store is
    away one picture at a time is tried, and when that one is in, all the others are.
    """

    def __init__(
        self,
        blobs: BlobStore,
        *,
        threads: int,
        spool: Spool,
        checker: Checker | None = None,
        tracing: Tracing = OFF,
    ) -> None:
        self._blobs = blobs
        self._checker = checker
        self.tracing = tracing
        self._threads = Threads(threads, name="finish")
        self._spool = spool
        self._done: deque[Stored | Unstorable] = deque()
        self._parked: deque[_Encoded] = deque()
        self._dropped: set[str] = set()
        self._pause_s = 0.0  # 0: the store is well, as far as we know
        self._away: str | None = None  # why the last upload failed; None: it did not
        self._try_at_s = 0.0
        self.tally = PendingCounts()  # what this worker did, for metrics; told at its beats

    def store(self, work: ToStore) -> None:
        """Encode and upload this image; it comes back from `done`."""
        self._spool.count(len(work.finished.pixels.data))
        self._threads.submit(self._begin, work)

    def done(self) -> list[Stored | Unstorable]:
        """What ended since the last call. Never blocks."""
        self._try_parked()
        ended = [self._done.popleft() for _ in range(len(self._done))]
        self._dropped.difference_update(e.image_id for e in ended)  # it came too late
        return ended

    def drop(self, image_id: str) -> None:
        """Nobody wants it any more: stop trying."""
        self._dropped.add(image_id)

    @property
    def away(self) -> str | None:
        """Why the store takes no pictures, as the last upload was told; None: it does."""
        return self._away

    @property
    def full(self) -> bool:
        """Whether so much waits for the store that no more jobs should be taken."""
        return self._spool.full

    def close(self) -> None:
        """Give up what is not stored yet; its jobs are handed back by now.

        An upload that hangs is not waited for: the worker's time to end is counted.
        """
        self._threads.close(CLOSE_S)
        self._spool.close()

    def _try_parked(self) -> None:
        now_s = time.monotonic()
        if not self._parked or now_s < self._try_at_s:
            return
        self._try_at_s = now_s + max(self._pause_s, FIRST_RETRY_S)
        for _ in range(1 if self._pause_s else len(self._parked)):
            self._threads.submit(self._upload, self._parked.popleft())

    def _begin(self, work: ToStore) -> None:
        began_s = time.monotonic()
        refused = self._refusal(work)
        if refused:
            self._spool.count(-len(work.finished.pixels.data))
            self._done.append(Unstorable(image_id=work.image_id, error=refused))
            return
        try:
            image, data = _encoded(work)
            held = self._spool.hold(work.image_id, data)
        except Exception:  # the fence around one image: fail one, never all
            log.exception("finishing.failed", extra={"job_id": work.job_id})
            self._done.append(Unstorable(image_id=work.image_id, error=UNSTORABLE))
            return
        finally:
            self._spool.count(-len(work.finished.pixels.data))
        encoded = _Encoded(work.image_id, image, held, began_s, work.trace)
        if self._pause_s:  # the store is away: another one tries it, in time
            self._parked.append(encoded)
        else:
            self._upload(encoded)

    def _refusal(self, work: ToStore) -> JobError | None:
        """Why this picture may not be shown, if the operator's checker says so."""
        pixels, prompt = work.finished.pixels, work.spec.prompt
        shown = picture_of(pixels, prompt=prompt, job_id=work.job_id, tenant=work.tenant)
        return refusal(self._checker, shown)

    def _upload(self, encoded: _Encoded) -> None:
        if encoded.image_id in self._dropped:
            self._dropped.discard(encoded.image_id)
            self._let_go(encoded)
            return
        span = self.tracing.start("put picture", "client", parent=encoded.trace)
        try:
            self._blobs.put(encoded.image.key, encoded.held.data(), encoded.image.content_type)
        except OSError:  # its file is gone, and with it the picture
            span.end(error="spool_lost")
            log.exception("spool.lost", extra={"image": encoded.image_id})
            self._let_go(encoded)
            self._done.append(Unstorable(image_id=encoded.image_id, error=UNSTORABLE, again=True))
            return
        except BlobsUnavailable as error:
            span.end(error=error.code)
            self.tally.add("s3", "put", error.code)
            self._pause_s = min(LAST_RETRY_S, max(FIRST_RETRY_S, self._pause_s * 2))
            self._try_at_s = time.monotonic() + self._pause_s
            self._away = str(error)
            self._parked.append(encoded)
            log.warning("blobs.away", extra={"reason": str(error), "again_in_s": self._pause_s})
            return
        span.end()
        self.tally.add("s3", "put", "ok")
        self._pause_s = self._try_at_s = 0.0
        self._away = None
        encoded.held.release()
        upload_ms = (time.monotonic() - encoded.began_s) * 1000
        self._done.append(
            Stored(image_id=encoded.image_id, image=encoded.image, upload_ms=upload_ms)
        )

    def _let_go(self, encoded: _Encoded) -> None:
        """It will not be uploaded; where it was the last, nothing is left that could find out."""
        encoded.held.release()
        if not self._parked:
            self._away = None


def _encoded(work: ToStore) -> tuple[Image, bytes]:
    pixels = work.finished.pixels
    output = work.spec.output
    data = encode(work.finished, work.spec, seed=work.seed, job_id=work.job_id)
    extension = FORMATS[output.format].extensions[0]
    image = Image(
        index=work.index,
        seed=work.seed,
        pixel_sha256=hashlib.sha256(pixels.data).hexdigest(),
        width=pixels.width,
        height=pixels.height,
        content_type=FORMATS[output.format].content_type,
        bytes=len(data),
        key=keys.image_key(work.tenant, work.job_id, work.index, extension),
    )
    return image, data
