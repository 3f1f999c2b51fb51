"""From pixels to a stored picture: encode, hash, upload, off the main loop.

Owns a few threads and the spool: pictures that wait because the picture store is away. Knows no
Redis and no engine. Invariant: pixels once made are never made again; a picture is uploaded until
it is stored or its job is dropped, and how much may wait so is bounded (`full`).
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from jobs import keys
from jobs.blobs import Blobs
from jobs.counts import Tally
from jobs.errors import BlobsUnavailable
from jobs.record import Image
from jobs.scripts.client_calls import EXTENSIONS
from jobs.spec import JobSpec
from worker.messages import Finished
from worker.pictures import CONTENT_TYPES, encode

log = logging.getLogger(__name__)

FIRST_RETRY_S, LAST_RETRY_S = 0.5, 10.0


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """It is there. `upload_ms`: from pixels to stored, encoding and waiting included."""

    image_id: str
    image: Image
    upload_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Unstorable:
    """It could not be encoded: a fault of ours, that no second try mends."""

    image_id: str
    message: str


@dataclass(frozen=True, slots=True)
class _Encoded:
    """A picture in the spool, on its way to the store."""

    image_id: str
    image: Image
    held: Held
    began_s: float  # monotonic


class Finishing:
    """The threads. `store` gives them work, `done` says what is stored since.

    A picture that the store refuses is parked, and no thread waits for it: while the store is
    away one picture at a time is tried, and when that one is in, all the others are.
    """

    def __init__(self, blobs: Blobs, *, threads: int, spool: Spool) -> None:
        self._blobs = blobs
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="finish")
        self._spool = spool
        self._done: deque[Stored | Unstorable] = deque()
        self._parked: deque[_Encoded] = deque()
        self._dropped: set[str] = set()
        self._pause_s = 0.0  # 0: the store is well, as far as we know
        self._try_at_s = 0.0
        self.tally = Tally()  # what this worker did, for metrics; told at its beats

    def store(self, work: ToStore) -> None:
        """Encode and upload this image; it comes back from `done`."""
        self._spool.count(len(work.finished.pixels.data))
        self._pool.submit(self._begin, work)

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
    def full(self) -> bool:
        """Whether so much waits for the store that no more jobs should be taken."""
        return self._spool.full

    def close(self) -> None:
        """Give up what is not stored yet; its jobs are handed back by now."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._spool.clear()

    def _try_parked(self) -> None:
        now_s = time.monotonic()
        if not self._parked or now_s < self._try_at_s:
            return
        self._try_at_s = now_s + max(self._pause_s, FIRST_RETRY_S)
        for _ in range(1 if self._pause_s else len(self._parked)):
            self._pool.submit(self._upload, self._parked.popleft())

    def _begin(self, work: ToStore) -> None:
        began_s = time.monotonic()
        try:
            image, data = _encoded(work)
            held = self._spool.hold(work.image_id, data)
        except Exception as error:  # the fence around one image: fail one, never all
            log.exception("finishing.failed", extra={"job_id": work.job_id})
            self._done.append(Unstorable(image_id=work.image_id, message=type(error).__name__))
            return
        finally:
            self._spool.count(-len(work.finished.pixels.data))
        self._upload(_Encoded(work.image_id, image, held, began_s))

    def _upload(self, encoded: _Encoded) -> None:
        if encoded.image_id in self._dropped:
            self._dropped.discard(encoded.image_id)
            encoded.held.release()
            return
        try:
            self._blobs.put(encoded.image.key, encoded.held.data(), encoded.image.content_type)
        except BlobsUnavailable as error:
            self.tally.add("s3", "put", error.code)
            self._pause_s = min(LAST_RETRY_S, max(FIRST_RETRY_S, self._pause_s * 2))
            self._try_at_s = time.monotonic() + self._pause_s
            self._parked.append(encoded)
            log.warning("blobs.away", extra={"reason": str(error), "again_in_s": self._pause_s})
            return
        self.tally.add("s3", "put", "ok")
        self._pause_s = self._try_at_s = 0.0
        encoded.held.release()
        upload_ms = (time.monotonic() - encoded.began_s) * 1000
        self._done.append(
            Stored(image_id=encoded.image_id, image=encoded.image, upload_ms=upload_ms)
        )


def _encoded(work: ToStore) -> tuple[Image, bytes]:
    pixels = work.finished.pixels
    output = work.spec.output
    data = encode(work.finished, work.spec, seed=work.seed, job_id=work.job_id)
    extension = EXTENSIONS[output.format]
    image = Image(
        index=work.index,
        seed=work.seed,
        pixel_sha256=hashlib.sha256(pixels.data).hexdigest(),
        width=pixels.width,
        height=pixels.height,
        content_type=CONTENT_TYPES[output.format],
        bytes=len(data),
        key=keys.image_key(work.tenant, work.job_id, work.index, extension),
    )
    return image, data


class Spool:
    """Where encoded pictures wait: in memory, or in files where a folder is given; bounded."""

    def __init__(self, folder: Path | None, *, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._bytes = 0
        self._lock = threading.Lock()
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            self.clear()  # what a worker that was killed left: its jobs run again anyway

    @property
    def full(self) -> bool:
        """Whether it holds all that it may."""
        return self._bytes >= self._max_bytes

    def hold(self, image_id: str, data: bytes) -> Held:
        """Keep `data` until it is released. What is made already is kept even beyond the bound."""
        self.count(len(data))
        if self._folder is None:
            return Held(self, len(data), data=data)
        path = self._folder / image_id.replace("/", "-")
        try:
            path.write_bytes(data)
        except OSError as error:
            log.warning("spool.refused", extra={"reason": str(error)})
            return Held(self, len(data), data=data)
        return Held(self, len(data), path=path)

    def count(self, change: int) -> None:
        """Add to, or take from, what is held; in bytes."""
        with self._lock:
            self._bytes += change

    def clear(self) -> None:
        """Remove every file."""
        for path in self._folder.iterdir() if self._folder else ():
            path.unlink(missing_ok=True)


class Held:
    """One picture in the spool."""

    def __init__(
        self, spool: Spool, size: int, *, data: bytes = b"", path: Path | None = None
    ) -> None:
        self._spool, self._size, self._data, self._path = spool, size, data, path

    def data(self) -> bytes:
        """The encoded picture."""
        return self._path.read_bytes() if self._path else self._data

    def release(self) -> None:
        """It is stored, or nobody wants it."""
        self._data = b""
        self._spool.count(-self._size)
        if self._path:
            self._path.unlink(missing_ok=True)
