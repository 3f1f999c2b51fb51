"""The pictures that jobs begin with, from the store to pixels, off the main loop.

Owns a few threads and the pictures read last. Knows no Redis and no engine. Invariant: pixels are
handed out only if they are those that the input's ID names; while the store is away a job waits for
its pictures, and is never run without them.
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
KEPT_BYTES = 64 * 1024 * 1024  # many jobs begin with one picture: read once while they come


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """The pictures of one job, by input ID; None: one of them is not there any more."""

    execution_id: str
    pictures: Mapping[str, Pixels] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    execution_id: str
    keys: Mapping[str, str]  # by input ID


class Fetching:
    """`fetch` gives the threads work, `done` says what is there since. Neither blocks."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._threads = Threads(THREADS, name="fetch")
        self._done: deque[Fetched] = deque()
        self._again: deque[tuple[float, _Wanted]] = deque()
        self._unwanted: set[str] = set()
        self._kept: OrderedDict[str, Pixels] = OrderedDict()
        self._lock = threading.Lock()

    def fetch(self, execution_id: str, keys: Mapping[str, str]) -> None:
        """Have the pictures of a job read; `keys`: where they are, by input ID."""
        self._threads.submit(self._read_all, _Wanted(execution_id=execution_id, keys=keys))

    def done(self) -> list[Fetched]:
        """What was read since the last call."""
        now_s = time.monotonic()
        while self._again and self._again[0][0] <= now_s:
            self._threads.submit(self._read_all, self._again.popleft()[1])
        return [self._done.popleft() for _ in range(len(self._done))]

    def drop(self, execution_id: str) -> None:
        """Nobody waits for them any more."""
        self._unwanted.add(execution_id)

    def close(self) -> None:
        """Read no more; what hangs is not waited for."""
        self._threads.close(CLOSE_S)

    def _read_all(self, wanted: _Wanted) -> None:
        if wanted.execution_id in self._unwanted:
            self._unwanted.discard(wanted.execution_id)
            return
        pictures: dict[str, Pixels] | None = {}
        try:
            pictures = {an_id: self._read(an_id, key) for an_id, key in wanted.keys.items()}
        except BlobMissing:
            pictures = None
        except BlobsUnavailable as error:
            log.warning("inputs.away", extra={"reason": str(error), "again_in_s": RETRY_S})
            self._again.append((time.monotonic() + RETRY_S, wanted))
            return
        except Exception:  # the fence around one job: fail one, never all
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
    """One of our own PNGs as pixels. Raises BlobMissing if they are not those of the ID."""
    with Image.open(io.BytesIO(png), formats=("PNG",)) as picture:
        data = picture.tobytes()
        width, height = picture.size
    if input_id(width, height, data) != an_id:
        raise BlobMissing(f"what is stored as input {an_id} is another picture")
    return Pixels(width=width, height=height, data=data)
