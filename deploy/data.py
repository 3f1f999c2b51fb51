"""The data folder of one installation: secrets, ports, logs, `up.json`, and a lock.

Owns every file that the supervisor itself writes. Invariants: one `up` a folder; a file with a
secret has mode 0600; `up.json` exists only while the services run, and is never half written.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from deploy.servers import seaweedfs_ports
from deploy.service import ServiceError, free_port, port_is_free

DRAWN: dict[str, Callable[[], str]] = {
    "redis_password": lambda: secrets.token_hex(16),
    "s3_access_key": lambda: secrets.token_hex(8),
    "s3_secret_key": lambda: secrets.token_hex(16),
    "webhook_key": lambda: base64.b64encode(secrets.token_bytes(32)).decode(),
}


class FolderInUse(ServiceError):
    """Another `up` runs on this folder."""


class DataFolder:
    """One data folder, locked until this process ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.logs = path / "logs"
        self.logs.mkdir(parents=True, exist_ok=True)
        path.chmod(0o700)  # it holds images and prompts
        self._lock = (path / "lock").open("a")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise FolderInUse(_in_use(self.up_file)) from None
        self.up_file.unlink(missing_ok=True)  # of an `up` that was killed

    @property
    def up_file(self) -> Path:
        """File with the services' addresses, for scripts."""
        return self.path / "up.json"

    def log(self, name: str) -> Path:
        """Return the path of one service's log."""
        return self.logs / f"{name}.log"

    def write_up(self, content: dict[str, Any]) -> None:
        """Write `up.json`. Raises OSError; the caller reports the error and goes on."""
        _write_private(self.up_file, content)

    def close(self) -> None:
        """Remove `up.json` and unlock the folder."""
        self.up_file.unlink(missing_ok=True)
        self._lock.close()

    def secrets(self) -> dict[str, str]:
        """Return the secrets of this folder: random, made once, the same in every run."""
        kept = self._secrets()
        drawn = {name: draw() for name, draw in DRAWN.items() if name not in kept}
        if drawn:
            _write_private(self._secrets_file, kept | drawn)
        return kept | drawn

    def keep_secret(self, name: str, value: str) -> None:
        """Add a secret that was made elsewhere."""
        _write_private(self._secrets_file, self._secrets() | {name: value})

    def _secrets(self) -> dict[str, str]:
        with suppress(FileNotFoundError):
            return json.loads(self._secrets_file.read_text())
        return {}

    @property
    def _secrets_file(self) -> Path:
        return self.path / "secrets.json"

    def ports(self) -> dict[str, int]:
        """Return the ports of the embedded servers: those of the last run if all are free."""
        file = self.path / "ports.json"
        with suppress(FileNotFoundError, ValueError):
            kept: dict[str, int] = json.loads(file.read_text())
            if all(map(port_is_free, kept.values())):
                return kept
        ports = {"valkey": free_port(), **seaweedfs_ports()}
        _write_private(file, ports)
        return ports


def _in_use(up_file: Path) -> str:
    """Return the message for a folder in use: the running service, and what to do next."""
    where = ""
    with suppress(FileNotFoundError, ValueError, KeyError):
        where = f" at {json.loads(up_file.read_text())['api_url']}"
    return (
        f"Printworks is running on {up_file.parent} already{where}.\n"
        'Use it (.venv/bin/printworks generate "a red house"), stop it, '
        "or give another folder with --data."
    )


def _write_private(file: Path, content: object) -> None:
    """Write a file atomically, readable for this user only. Raises OSError, and leaves no draft."""
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
            json.dump(content, out, indent=2)
        draft.replace(file)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
