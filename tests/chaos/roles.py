"""The service's other processes, as they are: API, janitor, courier; killed and started again.

They are forked from a server process that has imported them: a start costs milliseconds, not two
seconds of two busy cores. Owns these processes, and the receiver that their webhooks go to.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import sys
import threading
from collections import Counter
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    ["api.__main__", "api.app", "worker.janitor", "worker.courier.process"]
)


class Role:
    """One process of the service, at any time one."""

    def __init__(
        self, module: str, argv: list[str], *, environ: Mapping[str, str], log: Path
    ) -> None:
        self.name = argv[0] if module == "worker.main" else "api"
        self._target = (module, argv, dict(environ), str(log))
        self._process: Any = None
        self.start()

    def start(self) -> None:
        self._process = _FORKS.Process(target=_run, args=self._target)
        self._process.start()

    def kill(self) -> None:
        """As the kernel does it."""
        self._process.kill()
        self._process.join()

    @property
    def ended_with(self) -> int | None:
        """Its exit code, if it has ended though nobody killed it."""
        return self._process.exitcode


def _run(module: str, argv: list[str], environ: dict[str, str], log: str) -> None:
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    sys.stderr = os.fdopen(2, "w", buffering=1)
    for name in [n for n in os.environ if n.startswith("PRINTWORKS_")]:
        del os.environ[name]
    os.environ.update(environ)
    raise SystemExit(importlib.import_module(module).main(argv))


class Ears(ThreadingHTTPServer):
    """Receives webhooks: how often each came, and of which job each tells the end."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Listen)
        self.heard: Counter[str] = Counter()  # by webhook-id
        self._ends: dict[str, set[str]] = {}  # webhook-ids that tell of a job's end
        self._lock = threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def ends(self) -> dict[str, set[str]]:
        """As it stands: they go on coming while somebody counts."""
        with self._lock:
            return {job_id: set(told) for job_id, told in self._ends.items()}

    def hear(self, told: str, job_id: str) -> None:
        """One webhook came."""
        with self._lock:
            self.heard[told] += 1
            self._ends.setdefault(job_id, set()).add(told)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A courier that was killed hangs up."""


class _Listen(BaseHTTPRequestHandler):
    server: Ears

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.hear(self.headers["webhook-id"], json.loads(body)["data"]["id"])
        self.send_response(204)
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        """Silent."""
