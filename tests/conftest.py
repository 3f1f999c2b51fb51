"""The servers that tests run on, all real: one Valkey and one SeaweedFS for each test process.

A test asks for `redis` (empty at its start), `s3_settings` or `settings`; what it does not ask
for is not started. Invariant: a test that leaves a Redis key without a TTL fails.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import secrets
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from redis import Redis

from deploy import servers
from deploy.service import Service
from jobs.blobs.s3 import S3Blobs
from jobs.settings import RoleSettings
from tests.helpers import LEFT_OUT, keys_without_ttl, tool_missing
from tests.stores import Store, endpoint_of, moto_refusing, moto_service

# As worker/engine_link.py sets it for the engine, before torch is imported: spinning threads make
# model calls 12 to 30 times slower on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


LONGEST_FIRST = (
    "e2e",
    "dialects",
    "fault",
    "engine",
    "webhooks",
    "browser",
    "docs",
)  # a long folder begun last is waited for


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """One process a file, so that what a file shares is made once; some folders share one `up`."""

    def folder(item: pytest.Item) -> str:
        return item.path.relative_to(config.rootpath / "tests").parts[0]

    items.sort(key=lambda i: LONGEST_FIRST.index(folder(i)) if folder(i) in LONGEST_FIRST else 99)
    if not config.pluginmanager.has_plugin("xdist"):
        return  # one process does all, in this order; xdist's mark would be an unknown one
    for item in items:
        group = folder(item) if folder(item) in ("e2e", "dialects") else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.hookimpl(wrapper=True, tryfirst=True)  # so that what follows `yield` is the last word
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Generator[None]:
    """Say in one line what this machine has not, how to get it, and how many tests that cost."""
    yield
    skipped = terminalreporter.stats.get("skipped", [])
    said = [report.longrepr[2] for report in skipped if isinstance(report.longrepr, tuple)]
    missing = Counter(reason.split(LEFT_OUT, 1)[1] for reason in said if LEFT_OUT in reason)
    if missing:
        counted = "; ".join(f"{reason} (tests: {count})" for reason, count in missing.most_common())
        terminalreporter.write_line(f"Left out here, and run in CI: {counted}", yellow=True)


@pytest.fixture(scope="session")
def memory_folder() -> Iterator[Path]:
    """A folder in memory, where there is one (Linux), else on disk.

    Valkey syncs every write: while other tests keep the disk busy, one sync took over a second, and
    the API answered 503, as it should. What is tested here is ours, not the machine's disk.
    """
    memory = Path("/dev/shm")
    with TemporaryDirectory(prefix="printworks-", dir=memory if memory.is_dir() else None) as made:
        yield Path(made)


@pytest.fixture(scope="session")
def redis_binary() -> Path:
    """The server to test on: Valkey 9; with TESTS_REDIS=oldest, Debian's redis-server 7.0."""
    try:
        oldest = os.environ.get("TESTS_REDIS") == "oldest"
        return servers.find_redis() if oldest else servers.find_valkey()
    except servers.ToolMissing as missing:
        tool_missing(str(missing))


@pytest.fixture(scope="session")
def valkey_server(memory_folder: Path, redis_binary: Path) -> Iterator[servers.Valkey]:
    """The process's own Valkey: AOF, noeviction, a password. A test may `kill` and `start` it."""
    folder = memory_folder / "valkey"
    server = servers.valkey(folder, password=secrets.token_hex(8), binary=redis_binary)
    server.start()
    server.wait_ready()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def seaweedfs_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.SeaweedFS]:
    """The process's own SeaweedFS: ready in about a second."""
    try:
        server = servers.seaweedfs(
            tmp_path_factory.mktemp("s3") / "data", access_key="tests", secret_key="tests-secret"
        )
    except servers.ToolMissing as missing:
        tool_missing(str(missing))
    server.start()
    server.wait_ready()
    yield server
    server.kill()  # its data is the test's: 2.3 s of an orderly end buy nothing


@pytest.fixture(scope="session")
def moto_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The process's own moto: a second S3 server, unlike the first."""
    if importlib.util.find_spec("moto") is None:
        tool_missing("moto: a second S3 server")
    server = moto_service(tmp_path_factory.mktemp("moto"))
    server.start()
    server.wait_ready()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def moto_settings(moto_server: Service) -> dict[str, str]:
    """The settings of moto as the picture store; its bucket is there."""
    settings = {
        "s3_endpoint": endpoint_of(moto_server),
        "s3_access_key": "AKIAIOSFODNN7EXAMPLE",
        "s3_secret_key": "tests-secret",
    }
    S3Blobs(RoleSettings.model_validate(settings)).ensure_bucket()
    return settings


@pytest.fixture(scope="session", params=["seaweedfs", "moto"])
def s3_store(request: pytest.FixtureRequest) -> Store:
    """Each S3 server in turn: what a test asks of it, every store must do."""
    if request.param == "moto":
        settings = request.getfixturevalue("moto_settings")
        refusing = functools.partial(moto_refusing, settings["s3_endpoint"])
        return Store(name="moto", settings=settings, verifies_urls=False, refusing_keys=refusing)
    settings = request.getfixturevalue("s3_settings")
    return Store(name="seaweedfs", settings=settings, verifies_urls=True, refusing_keys=nullcontext)


@pytest.fixture
def redis_url(valkey_server: servers.Valkey) -> str:
    """The URL of an empty Valkey."""
    if not valkey_server.ready():  # the test before this one killed it
        valkey_server.kill()
        valkey_server.start()
        valkey_server.wait_ready()
    with Redis.from_url(valkey_server.url) as client:
        client.flushall()
    return valkey_server.url


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    """A client of the empty Valkey; answers are bytes, as RQ wants them."""
    with Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture(autouse=True)
def no_key_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a key without a TTL: in a year such keys are what fills Redis."""
    if "redis_url" not in request.fixturenames:
        yield
        return
    url: str = request.getfixturevalue("redis_url")
    yield
    with Redis.from_url(url) as client:
        leaked = keys_without_ttl(client)
    assert not leaked, (
        f"keys without a TTL, and not in jobs.store.keys.ALLOWED_WITHOUT_TTL: {leaked}"
    )


@pytest.fixture(scope="session")
def s3_settings(seaweedfs_server: servers.SeaweedFS) -> dict[str, str]:
    """The settings of the picture store, as RoleSettings takes them."""
    return {
        "s3_endpoint": seaweedfs_server.endpoint,
        "s3_bucket": seaweedfs_server.bucket,
        "s3_access_key": seaweedfs_server.access_key,
        "s3_secret_key": seaweedfs_server.secret_key,
    }


@pytest.fixture
def settings(redis_url: str, s3_settings: dict[str, str]) -> RoleSettings:
    """Shared settings that point at this process's servers."""
    return RoleSettings.model_validate({"redis_url": redis_url, **s3_settings})


@pytest.fixture(scope="session")
def blobs(s3_settings: dict[str, str]) -> S3Blobs:
    """The picture store of this process."""
    return S3Blobs(RoleSettings.model_validate(s3_settings))


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's folder."""
    return Path(__file__).resolve().parent.parent
