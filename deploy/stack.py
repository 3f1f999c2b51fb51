"""The services of one machine: list, settings and order of start.

Owns the list and the settings passed down. Knows nothing of starting or stopping. Invariant: a
server that the environment names is used as it is, and no embedded server is started instead.
"""

from __future__ import annotations

import http.client
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

from deploy import servers
from deploy.bootstrap import ROOT
from deploy.data import DataFolder
from deploy.service import Service, ServiceError, free_port, port_is_free

DEFAULT_PORT = 8000
PROBE_S = 1.0
WORKER_START_S = 3600.0  # a model of 20 GB may be on its way from the hub
WORKER_STOP_S = 45.0  # > the worker's own grace for finishing what fits
REDIS_VARIABLES = ("PRINTWORKS_REDIS_URL", "REDIS_URL")
# Secrets that a role does not need, by the prefix of their variables: not passed to the role.
WITHHELD = {
    "api": (),
    "gpu": ("PRINTWORKS_WEBHOOK_KEY",),
    "janitor": ("PRINTWORKS_WEBHOOK_KEY",),
    "courier": ("PRINTWORKS_S3_ACCESS_KEY", "PRINTWORKS_S3_SECRET_KEY", "AWS_"),
}
LOOPBACK = ("localhost", "127.0.0.1", "::1")
S3_NAMES = ("endpoint", "bucket", "access_key", "secret_key")  # as settings and as up.json say


@dataclass(frozen=True, kw_only=True)
class Stack:
    """The services, in the order of their start, and how to reach what they offer."""

    services: list[Service]
    api_url: str
    redis_url: str
    s3: Mapping[str, str | None]  # endpoint, bucket, access_key, secret_key
    env: Mapping[str, str]  # variables of every role, added to this process's environment

    def as_up_json(self, pids: Mapping[str, int], api_key: str | None) -> dict[str, Any]:
        """Return the content of `up.json`."""
        return {
            "api_url": self.api_url,
            "api_key": api_key,
            "redis_url": self.redis_url,
            "s3": dict(self.s3),
            "pids": {"supervisor": os.getpid(), **pids},
        }


def one_machine(
    data: DataFolder, *, port: int | None, workers: int, environ: Mapping[str, str] = os.environ
) -> Stack:
    """Return the stack of one machine, on the servers that `environ` names or embedded ones."""
    embedded, redis_url, s3 = _servers(data, environ)
    api_port = _api_port(port)
    env = _settings(environ, redis_url, s3) | {"PRINTWORKS_API_PORT": str(api_port)}
    env.setdefault("PRINTWORKS_WEBHOOK_KEY", data.secrets()["webhook_key"])
    for name, folder in (("STATE_DIR", "engine"), ("SPOOL_DIR", "spool")):
        env.setdefault(f"PRINTWORKS_WORKER_{name}", str(data.path / folder))
    # the workers first: importing torch takes longest
    gpu = [_worker(data, env, redis_url, number + 1) for number in range(workers)]
    api = _api(data, env, api_port)
    # the imports of these two would take processor time from torch's import: start after it
    ready = [service.name for service in (api, *gpu)]
    helpers = [_helper(role, data=data, env=env, after=ready) for role in ("janitor", "courier")]
    host = environ.get("PRINTWORKS_API_HOST", "127.0.0.1")
    reachable = "127.0.0.1" if host in ("0.0.0.0", "::") else host  # noqa: S104 - theirs, read
    return Stack(
        services=[*embedded, *gpu, api, *helpers],
        api_url=f"http://{reachable}:{api_port}",
        redis_url=redis_url,
        s3=s3,
        env=env,
    )


def _servers(
    data: DataFolder, environ: Mapping[str, str]
) -> tuple[list[Service], str, Mapping[str, str | None]]:
    """Return the embedded servers where `environ` names none, Redis's URL, S3's settings."""
    own: list[Service] = []
    redis_url = next((environ[name] for name in REDIS_VARIABLES if environ.get(name)), None)
    if redis_url is None:
        valkey = _valkey(data)
        own.append(valkey)
        redis_url = valkey.url
    s3 = _s3_given(environ)
    if s3 is None:
        seaweedfs = _seaweedfs(data, origins=environ.get("PRINTWORKS_API_CORS_ORIGINS", ""))
        own.append(seaweedfs)
        s3 = {name: getattr(seaweedfs, name) for name in S3_NAMES}
    return own, redis_url, s3


def _valkey(data: DataFolder) -> servers.Valkey:
    return servers.valkey(
        data.path / "valkey",
        password=data.secrets()["redis_password"],
        port=data.ports()["valkey"],
        log=data.log("valkey"),
    )


def _seaweedfs(data: DataFolder, *, origins: str) -> servers.SeaweedFS:
    kept, ports = data.secrets(), data.ports()
    return servers.seaweedfs(
        data.path / "s3",
        access_key=kept["s3_access_key"],
        secret_key=kept["s3_secret_key"],
        ports={part: ports[part] for part in servers.SEAWEEDFS_PARTS},
        log=data.log("seaweedfs"),
        origins=",".join(origin.strip() for origin in origins.split(",")),
    )


def _s3_given(environ: Mapping[str, str]) -> dict[str, str | None] | None:
    """Return the settings of the object storage that the environment names, or None."""
    if not any(environ.get(f"PRINTWORKS_S3_{name.upper()}") for name in S3_NAMES):
        return None
    return {name: environ.get(f"PRINTWORKS_S3_{name.upper()}") for name in S3_NAMES}


def _settings(
    environ: Mapping[str, str], redis_url: str, s3: Mapping[str, str | None]
) -> dict[str, str]:
    """Return the variables of every role, over those that are set already."""
    env = {name: value for name, value in environ.items() if name.startswith("PRINTWORKS_")}
    env |= {"PRINTWORKS_REDIS_URL": redis_url, "PYTHONUNBUFFERED": "1"}
    env |= {f"PRINTWORKS_S3_{name.upper()}": value for name, value in s3.items() if value}
    env |= dict.fromkeys(("no_proxy", "NO_PROXY"), _direct(environ))
    if models := environ.get("PRINTWORKS_MODELS_FILE"):
        env["PRINTWORKS_MODELS_FILE"] = str(Path(models).resolve())  # roles run in ROOT
    return env


def _direct(environ: Mapping[str, str]) -> str:
    """Return the hosts reached without a proxy: those of `no_proxy`, and this machine.

    A corporate proxy cannot reach this machine, and most clients know no CIDR (127.0.0.0/8) here.
    """
    given = [environ[name] for name in ("no_proxy", "NO_PROXY") if environ.get(name)]
    if "*" in given:  # every host; in a list with others it would be none
        return "*"
    return ",".join([*given, *LOOPBACK])


def _api_port(asked: int | None) -> int:
    """Return the API's port: as asked; None: 8000 or any free one; 0: any free one."""
    if asked == 0 or (asked is None and not port_is_free(DEFAULT_PORT)):
        return free_port()
    port = DEFAULT_PORT if asked is None else asked
    if not port_is_free(port):
        raise ServiceError(f"port {port} is in use; --port 0 takes any free one")
    return port


def _role(
    name: str, *arguments: str, data: DataFolder, env: Mapping[str, str], **more: Any
) -> Service:
    """Return the service of one role, run from the repository: `-m` finds the packages there."""
    withheld = WITHHELD[arguments[-1]]
    return Service(
        name=name,
        argv=[sys.executable, "-m", *arguments],
        log=data.log(name),
        cwd=ROOT,
        env={n: value for n, value in env.items() if not n.startswith(withheld)},
        inherits=lambda variable: not variable.startswith(withheld),
        **more,
    )


def _worker(data: DataFolder, env: Mapping[str, str], redis_url: str, number: int) -> Service:
    """Return a GPU worker. It starts before S3, which it needs only when an image is done."""
    service = _role(
        f"worker-{number}",
        "worker",
        "gpu",
        data=data,
        env=env,
        ready=lambda: False,
        after=("valkey",),
        uses=("seaweedfs", "api"),  # images finished while stopping are stored and can be read
        start_s=WORKER_START_S,
        stop_s=WORKER_STOP_S,
    )
    service.ready = _engine_ready(service, redis_url)
    return service


def _engine_ready(service: Service, redis_url: str) -> Callable[[], bool]:
    """Return a check whether the worker reports in Redis that its engine accepts jobs."""

    def ready() -> bool:
        # imported here: 0.4 s, to be spent while the workers import torch and not before
        from redis import RedisError  # noqa: PLC0415

        from deploy.worker_health import reports  # noqa: PLC0415
        from jobs.store.connection import connect  # noqa: PLC0415

        with connect(redis_url, reply_s=PROBE_S) as client:  # sentinel URLs work, too
            try:
                found = reports(client)
            except RedisError:
                return False
        return any(one.get("pid") == service.pid and one.get("engine_ready") for one in found)

    return ready


def _api(data: DataFolder, env: Mapping[str, str], port: int) -> Service:
    return _role(
        "api",
        "api",
        data=data,
        env=env,
        ready=lambda: answers(port),
        after=("valkey",),
        uses=("seaweedfs",),
        stop_s=30.0,
    )


def _helper(
    role: str, *, data: DataFolder, env: Mapping[str, str], after: Sequence[str]
) -> Service:
    """Return a janitor or courier: started last, without a readiness check."""
    return _role(role, "worker", role, data=data, env=env, ready=lambda: True, after=after)


def answers(port: int, path: str = "/livez") -> bool:
    """Return whether the API on this machine answers 200 at `path`."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PROBE_S)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
