"""`python -m api`: serve HTTP until SIGTERM. `python -m api keys ...`: API keys.

Owns the command line, the listening socket and the way down: on SIGTERM no new connection is
taken, waits and streams end at once, and open requests have the grace time.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import signal
import socket
import sys

import uvicorn
from fastapi import FastAPI

from api.access import keys_command
from api.app import create_app
from api.edge import connections
from api.edge.connections import Connections
from api.edge.header_timeout import TimedH11Protocol
from api.edge.request_edge import request_stamp
from api.services.container import check_before_start
from api.settings import ApiSettings
from jobs.errors import SettingsError
from jobs.logs import set_up
from jobs.store.api_keys import open_keystore
from jobs.store.job_store import AsyncJobStore

log = logging.getLogger(__name__)


class DrainingServer(uvicorn.Server):
    """uvicorn with a connection limit and a shutdown that ends.

    uvicorn waits for open responses: streams must be ended first, or uvicorn waits for ever.
    """

    def __init__(self, config: uvicorn.Config, app: FastAPI, *, max_connections: int) -> None:
        super().__init__(config)
        self._app = app
        self.server_state = Connections(max_connections)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, with a longer backlog in the kernel than the loop accepts in one turn."""
        connections.log_seldom(asyncio.get_running_loop())
        await super().startup(sockets)
        for server in self.servers:
            for listening in server.sockets:
                with listening.dup() as same:
                    same.listen(connections.WAITING)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End streams and waits, then shut uvicorn down."""
        services = getattr(self._app.state, "services", None)
        if services:
            services.readiness.draining = True
            services.following.drain()
        await super().shutdown(sockets)


def main(argv: list[str] | None = None) -> int:
    """Run the command line. Return the exit code: 0, or 2 after one line with the error."""
    parser = argparse.ArgumentParser(prog="python -m api", description=__doc__)
    parser.add_argument("--host", help="the address to listen on")
    parser.add_argument("--port", type=int, help="the port to listen on; 0: any free one")
    parser.add_argument("--uds", help="listen on this Unix socket instead")
    parser.add_argument("--fd", type=int, help="listen on this open socket instead")
    commands = parser.add_subparsers(dest="command")
    keys_command.add_to(commands)
    commands.add_parser("openapi", help="print the OpenAPI document")
    asked = parser.parse_args(argv)
    try:
        settings = ApiSettings.load()
        if asked.command == "keys":
            return asyncio.run(keys_command.run(asked, settings))
        if asked.command == "openapi":
            print(json.dumps(create_app(settings).openapi(), indent=1))  # noqa: T201
            return 0
        return serve(settings, asked)
    except SettingsError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201  (before there is a log)
        return 2


def serve(settings: ApiSettings, asked: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT."""
    overrides = {"host": asked.host, "port": asked.port}
    settings = settings.model_copy(update={k: v for k, v in overrides.items() if v is not None})
    settings = settings.model_copy(update={"host": where(settings, asked)})
    files = connections.open_files()
    settings, max_connections = within(files, settings)
    asyncio.run(_check(settings))
    set_up(settings.log_level, stamp=request_stamp)
    log.info("api.limits", extra={"files": files, "connections": max_connections})
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        uds=asked.uds,
        timeout_graceful_shutdown=settings.grace_s,  # without it one open stream blocks for ever
        timeout_keep_alive=65,  # > the usual 60 s of a balancer, which must close first
        http=TimedH11Protocol,
        h11_max_incomplete_event_size=32_768,
        log_config=None,
        access_log=False,  # our own has the request ID and no query
        server_header=False,
        backlog=connections.accepts_of(files),
    )
    gc.collect()
    gc.freeze()  # permanent objects: a collection over them blocked the loop for 47 ms
    server = DrainingServer(config, app, max_connections=max_connections)
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn raises the signal again at the end; an orderly end is exit code 0
        signal.signal(number, lambda _number, _frame: None)
    server.run(sockets=[inherited(asked.fd)] if asked.fd is not None else None)
    return 0 if server.started else 3


def within(files: int, settings: ApiSettings) -> tuple[ApiSettings, int]:
    """Bound streams and downloads by `files`; return the settings and the connection limit.

    A quarter of the connections is kept for short requests. Raises SettingsError.
    """
    downloads = connections.downloads_of(files, settings.max_downloads)
    most = connections.connections_of(files, settings.max_connections, downloads=downloads)
    streams = max(1, min(settings.max_streams, most * 3 // 4))
    return settings.model_copy(update={"max_downloads": downloads, "max_streams": streams}), most


def inherited(fd: int) -> socket.socket:
    """Return the open socket `fd` with its own family.

    uvicorn's own `fd=` takes every socket for a Unix one, so that asyncio leaves Nagle's algorithm
    on: each answer then waited 40 ms for the client's delayed acknowledgement (measured).
    """
    return socket.socket(fileno=fd)


def where(settings: ApiSettings, asked: argparse.Namespace) -> str:
    """Return the address of the service, which decides if a key is needed."""
    if asked.fd is not None:
        with socket.socket(fileno=socket.dup(asked.fd)) as bound:  # type: ignore[attr-defined]
            name = bound.getsockname()
            return str(name[0]) if isinstance(name, tuple) else "unix"
    return "unix" if asked.uds else settings.host


async def _check(settings: ApiSettings) -> None:
    """Check what would stop the start, for one line of error instead of a traceback."""
    store = AsyncJobStore(settings.redis_url)
    try:
        async with open_keystore(settings.redis_url) as keys:
            await check_before_start(settings, store, keys)
    finally:
        await store.aclose()


if __name__ == "__main__":
    sys.exit(main())
