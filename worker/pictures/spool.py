"""Where encoded pictures wait for the picture store: in memory, or in files; bounded.

Owns one folder a worker, below a common one, and the removal of those whose worker is dead: their
jobs run again anyway, and a worker has another name at each start. Knows no store and no job.
Invariant: a folder is removed only by its own worker, or once the kernel has let go of its lock.
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
    """One worker's pictures, on their way. `folder`: the common one; None: in memory.

    Raises SettingsError where the folder cannot be made or written.
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
                raise SettingsError(f"the spool's folder cannot be used: {error}") from error

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
        except OSError as error:  # a full disk: then memory, which is counted the same
            log.warning("spool.refused", extra={"reason": str(error)})
            path.unlink(missing_ok=True)
            return Held(self, len(data), data=data)
        return Held(self, len(data), path=path)

    def count(self, change: int) -> None:
        """Add to, or take from, what is held; in bytes."""
        with self._count_lock:
            self._bytes += change

    def close(self) -> None:
        """Remove everything."""
        if self._folder and self._life is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            os.close(self._life)
            self._life = None


class Held:
    """One picture in the spool."""

    def __init__(
        self, spool: Spool, size: int, *, data: bytes = b"", path: Path | None = None
    ) -> None:
        self._spool, self._size, self._data, self._path = spool, size, data, path

    def data(self) -> bytes:
        """The encoded picture. Raises OSError where its file is gone."""
        return self._path.read_bytes() if self._path else self._data

    def release(self) -> None:
        """It is stored, or nobody wants it."""
        self._data = b""
        self._spool.count(-self._size)
        if self._path:
            self._path.unlink(missing_ok=True)


def _move_in(common: Path, own: Path) -> int:
    """Make and lock a worker's own folder; the lock, which the kernel ends with the process."""
    common.mkdir(parents=True, exist_ok=True)
    with _alone_in(common):
        own.mkdir(exist_ok=True)
        lock = os.open(own / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _remove_the_dead(common, but=own)
    return lock


@contextmanager
def _alone_in(folder: Path) -> Generator[None]:
    """One worker at a time: a folder just made and not locked yet would look like a dead one's."""
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
        with suppress(OSError):  # no lock in it: not ours to remove; taken: it lives
            lock = os.open(other / LOCK, os.O_RDWR)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(other)
                log.info("spool.removed", extra={"worker": other.name})
            finally:
                os.close(lock)
