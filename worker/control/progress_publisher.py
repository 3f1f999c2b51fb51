"""Publishes jobs' progress twice a second, and previews of the jobs that asked for them.

Owns the publishing interval, and the thread that encodes previews. Knows RQ only through rq_bridge
and no engine. Invariant: nothing depends on these messages: each may be late or lost, and a preview
is in Redis for a minute at most, and not after its job's end.
"""

from __future__ import annotations

import base64
import io
import json
import time
from collections import deque
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from PIL import Image

from jobs.store.scripts.worker_calls import Lease
from worker.control.held_job import HeldJob
from worker.messages import Pixels, Preview
from worker.rq_bridge import BatchWorker

TELL_S = 0.5  # progress is published this often
SHOW_S = 0.2  # previews are published this often; a job has at most 2.5 a second (held_job.py)
LONGEST_SIDE, MOST_BYTES = 256, 16 * 1024  # of a preview
MOST_WAITING = 64  # encoded previews to publish; beyond that the oldest are dropped
CONTENT_TYPE = "image/jpeg"


class Telling:
    """Publisher of progress (`tell`, every loop iteration) and previews (`show`, for each one)."""

    def __init__(self, bridge: BatchWorker) -> None:
        self._bridge = bridge
        self._spent: list[HeldJob] = []  # dropped jobs whose last count is unpublished
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="preview")
        self._shown: deque[tuple[Lease, int, str]] = deque(maxlen=MOST_WAITING)
        self._tell_at_s = self._show_at_s = 0.0

    def spend(self, job: HeldJob) -> None:
        """Publish the progress of a job that was dropped once more, for its final count."""
        self._spent.append(job)

    def show(self, job: HeldJob, index: int, preview: Preview) -> None:
        """Encode a preview of one image, for the next publication."""
        self._pool.submit(self._write, job.lease, index, preview)

    def tell(self, jobs: Iterable[HeldJob]) -> None:
        """Publish what is due. Raises StoreUnavailable; progress is then published next time."""
        now_s = time.monotonic()
        if now_s >= self._tell_at_s:
            self._tell_at_s = now_s + TELL_S
            self._tell_progress(jobs)
        if self._shown and now_s >= self._show_at_s:
            self._show_at_s = now_s + SHOW_S
            self._bridge.previews([self._shown.popleft() for _ in range(len(self._shown))])

    def close(self) -> None:
        """Stop encoding previews."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _tell_progress(self, jobs: Iterable[HeldJob]) -> None:
        moved = [j for j in jobs if j.progress != j.told]
        if moved or self._spent:
            self._bridge.progress([(j.lease, *j.progress) for j in (*moved, *self._spent)])
        for job in moved:
            job.told = job.progress
        self._spent.clear()

    def _write(self, lease: Lease, index: int, preview: Preview) -> None:
        data, (width, height) = small_file(preview.pixels)
        message = {
            "index": index,
            "step": preview.calls,
            "width": width,
            "height": height,
            "content_type": CONTENT_TYPE,
            "data": base64.b64encode(data).decode(),
        }
        self._shown.append((lease, index, json.dumps(message, separators=(",", ":"))))


def small_file(pixels: Pixels) -> tuple[bytes, tuple[int, int]]:
    """Return a JPEG of at most MOST_BYTES, and its width and height: LONGEST_SIDE px at most."""
    picture = Image.frombytes("RGB", (pixels.width, pixels.height), pixels.data)
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    into = io.BytesIO()
    for quality in (80, 60, 40, 20, 5):  # noise at 256 x 256: 44, 29, 22, 14, 6 KiB
        into = io.BytesIO()
        picture.save(into, "JPEG", quality=quality)
        if into.tell() <= MOST_BYTES:
            break
    return into.getvalue(), picture.size
