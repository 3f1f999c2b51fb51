"""Reads and decodes jobs' input images from object storage, off the main loop.

Owns a few threads and a cache of the latest input images. Knows no Redis and no engine. Invariant:
pixels are returned only if their hash is the input's ID; while object storage is unavailable a job
waits for its input images, and never runs without them.
"""

from __future__ import annotations

import io
import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass

from PIL import Image

from jobs.blobs import BlobStore
from jobs.contract.input_images import input_id
from jobs.errors import BlobMissing, BlobsUnavailable
from worker.daemon_threads import Threads
from worker.messages import Pixels

log = logging.getLogger(__name__)
THREADS = 2
CLOSE_S = 1.0
RETRY_S = 1.0
KEPT_BYTES = 64 * 1024 * 1024  # cache size: many jobs may share one input image


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """Input images of one job, by input ID; None: an image is missing or unreadable."""

    execution_id: str
    pictures: Mapping[str, Pixels] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    execution_id: str
    keys: Mapping[str, str]  # by input ID


class Fetching:
    """Threads that read input images: `fetch` adds work, `done` returns results. Neither blocks."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._threads = Threads(THREADS, name="fetch")
        self._done: deque[Fetched] = deque()
        self._again: deque[tuple[float, _Wanted]] = deque()
        self._unwanted: set[str] = set()
        self._kept: OrderedDict[str, Pixels] = OrderedDict()
        self._lock = threading.Lock()

    def fetch(self, execution_id: str, keys: Mapping[str, str]) -> None:
        """Start to read the input images of a job; `keys`: storage keys by input ID."""
        self._threads.submit(self._read_all, _Wanted(execution_id=execution_id, keys=keys))

    def done(self) -> list[Fetched]:
        """Return the results since the last call, and restart due retries."""
        now_s = time.monotonic()
        while self._again and self._again[0][0] <= now_s:
            self._threads.submit(self._read_all, self._again.popleft()[1])
        return [self._done.popleft() for _ in range(len(self._done))]

    def drop(self, execution_id: str) -> None:
        """Cancel the reading of a job's input images."""
        self._unwanted.add(execution_id)

    def close(self) -> None:
        """Read no more; a read that hangs is not waited for."""
        self._threads.close(CLOSE_S)

    def _read_all(self, wanted: _Wanted) -> None:
        if wanted.execution_id in self._unwanted:
            self._unwanted.discard(wanted.execution_id)
            return
        pictures: dict[str, Pixels] | None = {}
        try:
            pictures = {
                image_id: self._read(image_id, key) for image_id, key in wanted.keys.items()
            }
        except BlobMissing:
            pictures = None
        except BlobsUnavailable as error:
            log.warning("inputs.away", extra={"reason": str(error), "again_in_s": RETRY_S})
            self._again.append((time.monotonic() + RETRY_S, wanted))
            return
        except Exception:  # catch all around one job: fail one, never all
            log.exception("inputs.unreadable", extra={"execution_id": wanted.execution_id})
            pictures = None
        self._done.append(Fetched(execution_id=wanted.execution_id, pictures=pictures))

    def _read(self, an_id: str, key: str) -> Pixels:
        with self._lock:
            if an_id in self._kept:
                self._kept.move_to_end(an_id)
                return self._kept[an_id]
        pixels = decoded(b"".join(self._blobs.open(key).chunks()), an_id)
        with self._lock:
            self._kept[an_id] = pixels
            while sum(len(p.data) for p in self._kept.values()) > KEPT_BYTES:
                self._kept.popitem(last=False)
        return pixels


def decoded(png: bytes, an_id: str) -> Pixels:
    """Return the pixels of a stored PNG. Raises BlobMissing if their hash is not the input's ID."""
    with Image.open(io.BytesIO(png), formats=("PNG",)) as picture:
        data = picture.tobytes()
        width, height = picture.size
    if input_id(width, height, data) != an_id:
        raise BlobMissing(f"the object of input image {an_id} is another image; upload it again")
    return Pixels(width=width, height=height, data=data)
