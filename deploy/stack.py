"""What runs on one machine: which services, with which settings, in which order.

Owns the list and the settings handed down; knows nothing of starting or stopping. Invariant: a
server that the environment names is used as it is, and none is started in its place.
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
# Secrets that a role has no use for, by how their variables begin: it is not told them.
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
    env: Mapping[str, str]  # what every role is told, beside our own environment

    def as_up_json(self, pids: Mapping[str, int], api_key: str | None) -> dict[str, Any]:
        """What `up.json` says."""
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
    """API, workers, janitor and courier, on the servers that `environ` names or on our own."""
    embedded, redis_url, s3 = _servers(data, environ)
    api_port = _api_port(port)
    env = _settings(environ, redis_url, s3) | {"PRINTWORKS_API_PORT": str(api_port)}
    env.setdefault("PRINTWORKS_WEBHOOK_KEY", data.secrets()["webhook_key"])
    for name, folder in (("STATE_DIR", "engine"), ("SPOOL_DIR", "spool")):
        env.setdefault(f"PRINTWORKS_WORKER_{name}", str(data.path / folder))
    # the workers first: importing torch is what everything else waits for
    gpu = [_worker(data, env, redis_url, number + 1) for number in range(workers)]
    api = _api(data, env, api_port)
    # what these two import takes processor time from torch's own import: they wait for it
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
    """Our own servers where `environ` names none; the URL of Redis; how to reach S3."""
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
    """The picture store that the environment names, if it names one."""
    if not any(environ.get(f"PRINTWORKS_S3_{name.upper()}") for name in S3_NAMES):
        return None
    return {name: environ.get(f"PRINTWORKS_S3_{name.upper()}") for name in S3_NAMES}


def _settings(
    environ: Mapping[str, str], redis_url: str, s3: Mapping[str, str | None]
) -> dict[str, str]:
    """The variables that every role gets, over those that are set already."""
    env = {name: value for name, value in environ.items() if name.startswith("PRINTWORKS_")}
    env |= {"PRINTWORKS_REDIS_URL": redis_url, "PYTHONUNBUFFERED": "1"}
    env |= {f"PRINTWORKS_S3_{name.upper()}": value for name, value in s3.items() if value}
    env |= dict.fromkeys(("no_proxy", "NO_PROXY"), _direct(environ))
    if models := environ.get("PRINTWORKS_MODELS_FILE"):
        env["PRINTWORKS_MODELS_FILE"] = str(Path(models).resolve())  # roles run in ROOT
    return env


def _direct(environ: Mapping[str, str]) -> str:
    """The hosts that no proxy stands before: those of the environment, and this machine.

    A company's proxy cannot reach it, and most clients know no CIDR (127.0.0.0/8) in this list.
    """
    given = [environ[name] for name in ("no_proxy", "NO_PROXY") if environ.get(name)]
    if "*" in given:  # every host; in a list with others it would be none
        return "*"
    return ",".join([*given, *LOOPBACK])


def _api_port(asked: int | None) -> int:
    """The port asked for; unasked, 8000 or any free one; for 0, any free one."""
    if asked == 0 or (asked is None and not port_is_free(DEFAULT_PORT)):
        return free_port()
    port = DEFAULT_PORT if asked is None else asked
    if not port_is_free(port):
        raise ServiceError(f"port {port} is in use; --port 0 takes any free one")
    return port


def _role(
    name: str, *arguments: str, data: DataFolder, env: Mapping[str, str], **more: Any
) -> Service:
    """One of our own processes, run from the repository: `-m` finds the packages there."""
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
    """It needs S3 only when a picture is done: by then that is long up."""
    service = _role(
        f"worker-{number}",
        "worker",
        "gpu",
        data=data,
        env=env,
        ready=lambda: False,
        after=("valkey",),
        uses=("seaweedfs", "api"),  # what it finishes in its grace is stored, and can be asked for
        start_s=WORKER_START_S,
        stop_s=WORKER_STOP_S,
    )
    service.ready = _engine_ready(service, redis_url)
    return service


def _engine_ready(service: Service, redis_url: str) -> Callable[[], bool]:
    """Whether the worker says, in Redis, that its engine takes jobs."""

    def ready() -> bool:
        # imported here: 0.4 s, to be spent while the workers import torch and not before
        from redis import RedisError  # noqa: PLC0415

        from deploy.worker_health import reports  # noqa: PLC0415
        from jobs.store.connection import connect  # noqa: PLC0415

        with connect(redis_url, reply_s=PROBE_S) as client:  # which knows sentinels, too
            try:
                said = reports(client)
            except RedisError:
                return False
        return any(one.get("pid") == service.pid and one.get("engine_ready") for one in said)

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
    """One that nobody waits for: it has nothing to do before there are jobs, and no probe."""
    return _role(role, "worker", role, data=data, env=env, ready=lambda: True, after=after)


def answers(port: int, path: str = "/livez") -> bool:
    """Whether the API on this machine says yes."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PROBE_S)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
