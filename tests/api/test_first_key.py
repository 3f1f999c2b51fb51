"""The first key: made where there is none, once, kept where only its owner reads it."""

from __future__ import annotations

import asyncio
import stat
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from redis import Redis

from api.access.first_key import first_key
from api.settings import ApiSettings
from jobs.store import keys
from jobs.store.api_keys import ApiKey, Scope, id_of, make_key, open_keystore
from tests.api.serving import serving
from tests.api.test_process import run


def kept(redis: Redis) -> list[ApiKey]:
    return [ApiKey.model_validate_json(text) for text in redis.hvals(keys.API_KEYS)]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def environ(redis_url: str) -> dict[str, str]:
    return {"REDIS_URL": redis_url}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "first"


def test_it_is_shown_kept_and_opens_everything_where_nobody_else_comes_in(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    environ: dict[str, str],
    api_settings: ApiSettings,
    redis: Redis,
    file: Path,
):
    assert run(monkeypatch, environ, "keys", "first", "--file", str(file)) == 0
    secret = capsys.readouterr().out.split()[-1]
    assert run(monkeypatch, environ, "keys", "first", "--file", str(file)) == 0
    again = capsys.readouterr().out.split()[-1]

    assert secret == again == file.read_text().strip()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(file.parent.iterdir()) == [file]  # no draft is left
    (only,) = kept(redis)
    assert (only.id, only.scopes) == (id_of(secret), frozenset(Scope))
    in_a_container = {"host": "0.0.0.0", "anonymous": "never"}
    with serving(api_settings.model_copy(update=in_a_container)) as served:
        with_it = {"authorization": f"Bearer {secret}"}
        assert served.client.get("/v1/jobs").status_code == 401
        assert served.client.get("/v1/keys", headers=with_it).status_code == 200


@pytest.mark.anyio
async def test_of_many_that_begin_at_once_all_have_the_same(
    redis_url: str, redis: Redis, file: Path
):
    async with AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(open_keystore(redis_url)) for _ in range(8)]

        told = await asyncio.gather(*(first_key(store, file) for store in stores))

    assert len(set(told)) == len(kept(redis)) == 1


@pytest.mark.anyio
async def test_a_redis_that_lost_it_gets_the_same_again(redis_url: str, redis: Redis, file: Path):
    async with open_keystore(redis_url) as store:
        before = await first_key(store, file)
        redis.flushall()

        after = await first_key(store, file)

    assert before == after
    assert [key.id for key in kept(redis)] == [id_of(before)]


def test_none_is_made_where_there_are_keys(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    environ: dict[str, str],
    redis: Redis,
    file: Path,
):
    other = make_key(tenant="acme").key
    redis.hset(keys.API_KEYS, other.id, other.model_dump_json())

    code = run(monkeypatch, environ, "keys", "first", "--file", str(file))

    said = capsys.readouterr()
    assert (code, said.out) == (0, "")
    assert said.err.startswith("note: keys exist already")
    assert [key.id for key in kept(redis)] == [other.id]
    assert not file.exists()


@pytest.mark.parametrize("another", [False, True])
def test_one_that_was_revoked_stays_so(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    environ: dict[str, str],
    redis: Redis,
    file: Path,
    another: bool,
):
    first = ("keys", "first", "--file", str(file))
    assert run(monkeypatch, environ, *first) == 0
    secret = capsys.readouterr().out.split()[-1]
    assert run(monkeypatch, environ, "keys", "revoke", id_of(secret)) == 0
    if another:
        assert run(monkeypatch, environ, "keys", "create", "--scope", "admin") == 0
    capsys.readouterr()

    code = run(monkeypatch, environ, *first)

    said = capsys.readouterr()
    assert code == (0 if another else 1)
    assert secret not in said.out + said.err
    assert "was revoked" in said.err
    assert len([key for key in kept(redis) if key.revoked_at is None]) == another


@pytest.mark.parametrize("fault", ["not a key", "no folder"])
def test_a_file_that_cannot_be_used_is_named(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    environ: dict[str, str],
    redis: Redis,
    tmp_path: Path,
    fault: str,
):
    file = tmp_path / "first" if fault == "not a key" else tmp_path / "none" / "first"
    if fault == "not a key":
        file.write_text("pw_short")

    code = run(monkeypatch, environ, "keys", "first", "--file", str(file))

    told = capsys.readouterr().err
    assert code == 1
    assert str(file) in told
    assert len(told.splitlines()) == 1
    assert kept(redis) == []
