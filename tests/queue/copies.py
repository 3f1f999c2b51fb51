"""A primary with replicas, and sentinels that watch them: real servers, in memory, on loopback."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from redis import Redis, RedisError

from deploy import servers
from deploy.service import Service, free_port
from tests.fault.tcp_proxy import TcpProxy
from tests.helpers import wait_until

NAME = "queue"
DOWN_MS = 1000  # silence after which a sentinel takes the primary for dead
PASSWORD = secrets.token_hex(8)


def port_of(server: servers.Valkey) -> int:
    return urlsplit(server.url).port or 0


def client(server: servers.Valkey) -> Redis:
    return Redis.from_url(server.url, socket_timeout=5)


@dataclass
class Copies:
    """`primary`, its `replicas`, and for each the link between them, which can be cut."""

    primary: servers.Valkey
    replicas: list[servers.Valkey]
    links: list[TcpProxy] = field(default_factory=list[TcpProxy])

    def link_up(self) -> None:
        """Wait until every replica has all that the primary has."""
        wait_until(lambda: self.in_step() == len(self.replicas), "the replicas are in step", 30)

    def in_step(self) -> int:
        with client(self.primary) as redis:
            redis.set("pw:probe", 1, ex=60)
            return int(redis.execute_command("WAIT", len(self.replicas), 200))

    def cut(self, mode: str = "reset") -> None:
        """Cut every link: what the primary is told from now on stays there."""
        for link in self.links:
            link.set(mode)

    def promote(self, number: int = 0) -> servers.Valkey:
        """Make a replica the primary, as an operator would."""
        with client(self.replicas[number]) as redis:
            redis.execute_command("REPLICAOF", "NO", "ONE")
        return self.replicas[number]


@contextmanager
def copies(folder: Path, replicas: int, *, cuttable: bool, binary: Path) -> Iterator[Copies]:
    """A primary and its replicas, in step."""
    with ExitStack() as stack:
        made = [server(folder / f"node{k}", binary) for k in range(replicas + 1)]
        for one in made:
            one.start()
            stack.callback(one.kill)
        for one in made:
            one.wait_ready()
        found = Copies(made[0], made[1:])
        for replica in found.replicas:
            port = port_of(found.primary)
            if cuttable:
                link = TcpProxy("127.0.0.1", port)
                stack.callback(link.close)
                found.links.append(link)
                port = link.port
            with client(replica) as redis:
                redis.execute_command("REPLICAOF", "127.0.0.1", port)
        found.link_up()
        yield found


def server(folder: Path, binary: Path) -> servers.Valkey:
    made = servers.valkey(folder, password=PASSWORD, binary=binary)
    with (folder / "valkey.conf").open("a") as config:
        config.write(f"masterauth {PASSWORD}\nrepl-diskless-sync-delay 0\n")
    return made


@contextmanager
def sentinels(folder: Path, watched: Copies, *, binary: Path) -> Iterator[str]:
    """Three sentinels that watch, and the URL that names them."""
    with ExitStack() as stack:
        ports: list[int] = []
        for number in range(3):
            one, port = sentinel(folder / f"sentinel{number}", port_of(watched.primary), binary)
            one.start()
            stack.callback(one.kill)
            ports.append(port)
        others = len(ports) - 1
        for port in ports:
            wait_until(lambda p=port: knows(p, others, len(watched.replicas)), "they know all", 30)
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
        yield f"redis+sentinel://:{PASSWORD}@{hosts}/{NAME}/0"


def sentinel(folder: Path, primary: int, binary: Path) -> tuple[Service, int]:
    folder.mkdir(parents=True)
    port, config = free_port(), folder / "sentinel.conf"
    config.write_text(
        f'bind 127.0.0.1\nport {port}\ndir "{folder}"\n'
        f"sentinel monitor {NAME} 127.0.0.1 {primary} 2\n"
        f"sentinel auth-pass {NAME} {PASSWORD}\n"
        f"sentinel down-after-milliseconds {NAME} {DOWN_MS}\n"
        f"sentinel failover-timeout {NAME} 4000\n"
    )
    argv: list[Any] = [binary, config, "--sentinel"]
    return Service(name="sentinel", argv=argv, log=folder / "log", ready=lambda: True), port


def knows(port: int, others: int, replicas: int) -> bool:
    """Whether a sentinel has found the other sentinels and all replicas."""
    try:
        with Redis(port=port, socket_timeout=1) as redis:
            state = redis.sentinel_master(NAME)
    except RedisError:  # it is starting
        return False
    return (state["num-other-sentinels"], state["num-slaves"]) == (others, replicas)
