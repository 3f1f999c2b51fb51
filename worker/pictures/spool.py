"""Bounded spool of encoded images that wait for object storage, in memory or in files.

Owns one folder per worker, below a common one, and the removal of dead workers' folders: their
jobs run again anyway, and a worker has another name at each start. Knows no storage and no job.
Invariant: a folder is removed only by its own worker, or once the kernel has released its lock.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from jobs.errors import SettingsError

log = logging.getLogger(__name__)

LOCK = ".lock"


class Spool:
    """Spool of one worker. `folder`: the common folder; None: in memory.

    Raises SettingsError if the folder cannot be created or written.
    """

    def __init__(self, folder: Path | None, *, name: str, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._count_lock = threading.Lock()
        self._folder = folder / name if folder else None
        self._life: int | None = None
        if folder and self._folder:
            try:
                self._life = _move_in(folder, self._folder)
            except OSError as error:
                raise SettingsError(
                    f"PRINTWORKS_WORKER_SPOOL_DIR cannot be used: {error}; name a writable folder"
                ) from error

    @property
    def full(self) -> bool:
        """True once the spool holds `max_bytes` or more."""
        return self._bytes >= self._max_bytes

    def hold(self, image_id: str, data: bytes) -> Held:
        """Hold `data` until released. A generated image is held even beyond `max_bytes`."""
        self.count(len(data))
        if self._folder is None:
            return Held(self, len(data), data=data)
        path = self._folder / image_id.replace("/", "-")
        try:
            path.write_bytes(data)
        except OSError as error:  # a full disk: hold the data in memory, counted the same
            log.warning("spool.refused", extra={"reason": str(error)})
            path.unlink(missing_ok=True)
            return Held(self, len(data), data=data)
        return Held(self, len(data), path=path)

    def count(self, change: int) -> None:
        """Add `change` (negative to subtract) to the bytes held."""
        with self._count_lock:
            self._bytes += change

    def close(self) -> None:
        """Remove this worker's folder with all images."""
        if self._folder and self._life is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            os.close(self._life)
            self._life = None


class Held:
    """One encoded image in the spool, until `release`."""

    def __init__(
        self, spool: Spool, size: int, *, data: bytes = b"", path: Path | None = None
    ) -> None:
        self._spool, self._size, self._data, self._path = spool, size, data, path

    def data(self) -> bytes:
        """Return the encoded image. Raises OSError if the file is gone."""
        return self._path.read_bytes() if self._path else self._data

    def release(self) -> None:
        """Remove the image from the spool, because it is stored or its job was dropped."""
        self._data = b""
        self._spool.count(-self._size)
        if self._path:
            self._path.unlink(missing_ok=True)


def _move_in(common: Path, own: Path) -> int:
    """Create and lock a worker's own folder. Return the lock, which ends with the process."""
    common.mkdir(parents=True, exist_ok=True)
    with _alone_in(common):
        own.mkdir(exist_ok=True)
        lock = os.open(own / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _remove_the_dead(common, but=own)
    return lock


@contextmanager
def _alone_in(folder: Path) -> Generator[None]:
    """Admit one worker at a time: a new folder without its lock would look like a dead worker's."""
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _remove_the_dead(folder: Path, *, but: Path) -> None:
    for other in folder.iterdir():
        if other == but or not other.is_dir():
            continue
        with suppress(OSError):  # no lock file: not a worker's; locked: its worker lives
            lock = os.open(other / LOCK, os.O_RDWR)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(other)
                log.info("spool.removed", extra={"worker": other.name})
            finally:
                os.close(lock)
