"""Checks, encodes, hashes and uploads generated images, off the main loop.

Owns a few threads and the spool of images that wait while object storage is unavailable. Knows no
Redis and no engine. Invariant: an image once generated is never generated again; its upload is
retried until stored or until its job is dropped, and the waiting bytes are bounded (`full`).
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
from worker.pictures.ai_mark import source_type
from worker.pictures.content_check import Checker, picture_of, refusal
from worker.pictures.content_credentials import ContentCredentials
from worker.pictures.encoding import encode
from worker.pictures.spool import Held, Spool

log = logging.getLogger(__name__)

FIRST_RETRY_S, LAST_RETRY_S = 0.5, 10.0
CLOSE_S = 1.0
UNSTORABLE = JobError(
    code="internal", message="the image could not be encoded; submit the job again", retryable=True
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToStore:
    """A generated image to upload. `image_id` is the engine's ID of the image."""

    image_id: str
    job_id: str
    tenant: str
    index: int
    seed: int
    spec: JobSpec
    finished: Finished
    trace: str | None = None  # traceparent of the job's span


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A stored image. `upload_ms`: from pixels to stored, encoding and waiting included."""

    image_id: str
    image: Image
    upload_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Unstorable:
    """An image that cannot be stored: the content check refused it, or encoding failed."""

    image_id: str
    error: JobError
    again: bool = False  # True: generating the image once more may help


@dataclass(frozen=True, slots=True)
class _Encoded:
    """An encoded image in the spool, to upload."""

    image_id: str
    image: Image
    held: Held
    began_s: float  # monotonic
    trace: str | None


class Finishing:
    """Threads that check, encode and upload: `store` adds an image, `done` returns the results.

    An image that object storage refuses is parked, and no thread waits for it: while object storage
    is unavailable one image at a time is retried; once it is stored, all the others follow.
    """

    def __init__(
        self,
        blobs: BlobStore,
        *,
        threads: int,
        spool: Spool,
        checker: Checker | None = None,
        credentials: ContentCredentials | None = None,
        tracing: Tracing = OFF,
    ) -> None:
        self._blobs = blobs
        self._checker = checker
        self._credentials = credentials
        self.tracing = tracing
        self._threads = Threads(threads, name="finish")
        self._spool = spool
        self._done: deque[Stored | Unstorable] = deque()
        self._parked: deque[_Encoded] = deque()
        self._dropped: set[str] = set()
        self._pause_s = 0.0  # 0: object storage is available, as far as known
        self._away: str | None = None  # why the last upload failed; None: it succeeded
        self._try_at_s = 0.0
        self.tally = PendingCounts()  # this worker's counts for metrics, sent at heartbeats

    def store(self, work: ToStore) -> None:
        """Encode and upload this image; `done` returns the result."""
        self._spool.count(len(work.finished.pixels.data))
        self._threads.submit(self._begin, work)

    def done(self) -> list[Stored | Unstorable]:
        """Return the images stored or unstorable since the last call. Never blocks."""
        self._try_parked()
        ended = [self._done.popleft() for _ in range(len(self._done))]
        self._dropped.difference_update(e.image_id for e in ended)  # dropped too late
        return ended

    def drop(self, image_id: str) -> None:
        """Stop the upload of an image whose job was dropped."""
        self._dropped.add(image_id)

    @property
    def away(self) -> str | None:
        """Reason of the last upload's failure; None: the last upload succeeded."""
        return self._away

    @property
    def full(self) -> bool:
        """True while the spool is full, so that no more jobs should be taken."""
        return self._spool.full

    def close(self) -> None:
        """Give up images that are not stored yet; their jobs are back in the queue by now.

        An upload that hangs is not waited for: the worker has little time to end.
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
            image, data = _encoded(work, self._credentials)
            held = self._spool.hold(work.image_id, data)
        except Exception:  # catch all around one image: fail one, never all
            log.exception("finishing.failed", extra={"job_id": work.job_id})
            self._done.append(Unstorable(image_id=work.image_id, error=UNSTORABLE))
            return
        finally:
            self._spool.count(-len(work.finished.pixels.data))
        encoded = _Encoded(work.image_id, image, held, began_s, work.trace)
        if self._pause_s:  # object storage is unavailable: `done` retries it in time
            self._parked.append(encoded)
        else:
            self._upload(encoded)

    def _refusal(self, work: ToStore) -> JobError | None:
        """Return the content check's error; None: the image is allowed."""
        pixels, prompt = work.finished.pixels, work.spec.prompt
        picture = picture_of(pixels, prompt=prompt, job_id=work.job_id, tenant=work.tenant)
        return refusal(self._checker, picture)

    def _upload(self, encoded: _Encoded) -> None:
        if encoded.image_id in self._dropped:
            self._dropped.discard(encoded.image_id)
            self._let_go(encoded)
            return
        span = self.tracing.start("put picture", "client", parent=encoded.trace)
        try:
            self._blobs.put(encoded.image.key, encoded.held.data(), encoded.image.content_type)
        except OSError:  # the spool's file is gone, and the image with it
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
        """Release an image without upload; with none left to retry, forget the last failure."""
        encoded.held.release()
        if not self._parked:
            self._away = None


def _encoded(work: ToStore, credentials: ContentCredentials | None) -> tuple[Image, bytes]:
    pixels = work.finished.pixels
    output = work.spec.output
    data = encode(work.finished, work.spec, seed=work.seed, job_id=work.job_id)
    if credentials:
        kind = FORMATS[output.format].content_type
        data = credentials.signed(data, kind, source_type=source_type(work.spec))
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
