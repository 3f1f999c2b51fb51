"""docs/proxy.md, its blocks run as they stand: Debian's nginx and Caddy before a real API.

Traefik is not in Debian, and no package that this project installs brings it: its block is only
read as YAML, and held to name the service as the other two do.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
import yaml
from PIL import Image
from redis import Redis

from api.edge.request_edge import SAFE_METHODS
from api.settings import ApiSettings
from deploy.service import free_port
from jobs.store import keys
from jobs.store.api_keys import Scope
from tests.api.hand_worker import HandWorker
from tests.api.hostile_pictures import encoded
from tests.api.serving import Served, as_operator, serving
from tests.api.test_keyless import ROUTES, filled
from tests.api.test_live import events
from tests.certificates import certificate
from tests.helpers import tool_missing, wait_until

NAME = "pictures.example"
UPSTREAM = "127.0.0.1:8000"
PLAIN = "server {{ listen {at}; location / {{ proxy_pass http://{upstream}; {more} }} }}"
NGINX = """daemon off; master_process off; pid {folder}/pid; error_log stderr;
events {{ }}
http {{ access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
{server}
}}
"""
CADDY = """{{
admin off
auto_https off
default_bind 127.0.0.1
storage file_system {folder}
}}
{site}"""


def block(root: Path, language: str) -> str:
    """The one block of the page in that language."""
    page = (root / "docs/proxy.md").read_text(encoding="utf-8")
    (found,) = re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)
    return found


def tool(name: str, package: str) -> str:
    path = f"{os.environ['PATH']}{os.pathsep}/usr/sbin"  # not on everybody's
    return shutil.which(name, path=path) or tool_missing(f"no {name}: apt install {package}")


def replaced(text: str, **by: str) -> str:
    """`text` with each of those words, which must stand in it once."""
    for old, new in by.items():
        assert text.count(old) == 1, f"{old} stands {text.count(old)} times in the block"
        text = text.replace(old, new)
    return text


@contextmanager
def running(argv: Sequence[str], port: int, folder: Path) -> Iterator[None]:
    """That proxy, listening."""
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log, env={"HOME": str(folder)})

    def up() -> bool:
        assert process.poll() is None, (folder / "log").read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_until(up, f"{argv[0]} listens")
        yield
    finally:
        process.kill()
        process.wait()


@contextmanager
def nginx(folder: Path, server: str, port: int) -> Iterator[None]:
    program = tool("nginx", "nginx-light")
    conf = folder / "nginx.conf"
    conf.write_text(NGINX.format(folder=folder, server=server))
    argv = [program, "-p", str(folder), "-e", "stderr", "-c", str(conf)]
    with running(argv, port, folder):
        yield


@contextmanager
def documented_nginx(root: Path, folder: Path, upstream: str) -> Iterator[httpx2.Client]:
    """The page's nginx block; the address and the certificate are the test's."""
    port = free_port()
    cert, key = certificate(folder, "127.0.0.1")
    places = {
        "443 ssl": f"127.0.0.1:{port} ssl",
        "/etc/ssl/pictures.example.pem": str(cert),
        "/etc/ssl/pictures.example.key": str(key),
        UPSTREAM: upstream,
    }
    trusted = ssl.create_default_context(cafile=str(cert))
    with (
        nginx(folder, replaced(block(root, "nginx"), **places), port),
        httpx2.Client(
            base_url=f"https://127.0.0.1:{port}", headers={"host": NAME}, verify=trusted, timeout=30
        ) as client,
    ):
        yield client


@contextmanager
def documented_caddy(root: Path, folder: Path, upstream: str) -> Iterator[httpx2.Client]:
    """The page's Caddy block, without the certificate that Caddy would fetch."""
    program, port = tool("caddy", "caddy"), free_port()
    places = {f"{NAME} {{": f"http://{NAME}:{port} {{", UPSTREAM: upstream}
    site = replaced(block(root, "caddy"), **places)
    file = folder / "Caddyfile"
    file.write_text(CADDY.format(folder=folder, site=site))
    with (
        running([program, "run", "--config", str(file), "--adapter", "caddyfile"], port, folder),
        httpx2.Client(
            base_url=f"http://127.0.0.1:{port}", headers={"host": NAME}, timeout=30
        ) as client,
    ):
        yield client


DOCUMENTED = {"nginx": documented_nginx, "caddy": documented_caddy}


@pytest.fixture(scope="module")
def behind(api_settings: ApiSettings) -> Iterator[Served]:
    """An API as the page wants it behind a proxy."""
    # it starts only where there is a key
    operator = as_operator(api_settings.redis_url)
    with serving(
        api_settings.model_copy(update={"anonymous": "never", "public_url": f"https://{NAME}"})
    ) as served:
        served.client.headers.update(operator)
        yield served


@pytest.fixture(scope="module", params=DOCUMENTED)
def front(
    request: pytest.FixtureRequest,
    root: Path,
    behind: Served,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[httpx2.Client]:
    """A client of that API through the page's own block."""
    folder = tmp_path_factory.mktemp(request.param)
    with DOCUMENTED[request.param](root, folder, behind.url.removeprefix("http://")) as client:
        yield client


def test_who_has_no_key_is_told_what_to_do(front: httpx2.Client, redis_url: str):
    for path in ("/v1/jobs", "/v1/keys", "/metrics"):
        refused = front.get(path)

        assert refused.status_code == 401
        assert "python -m api keys create" in refused.json()["detail"]
        assert "localhost" not in refused.text
    assert front.get("/").status_code == front.get("/livez").status_code == 200


def test_with_a_key_everything_works(front: httpx2.Client, redis_url: str, worker: HandWorker):
    key = as_operator(redis_url)
    own_page = {"origin": f"https://{NAME}", "sec-fetch-site": "same-origin"}
    noise = Image.frombytes("RGB", (1024, 1024), os.urandom(3 * 1024**2))
    job = front.post("/v1/jobs", json={"prompt": "a cat"}, headers=key | own_page).json()
    told: list[str] = []

    # each event is waited for before the next is made: a proxy that held them back would hang here
    with front.stream("GET", f"/v1/jobs/{job['id']}/events", headers=key) as answer:
        for name, data in events(answer):
            told.append(name)
            if name == "snapshot":
                claimed = worker.take()
            elif name == "status" and data["status"] == "running":
                worker.tell(claimed, 7, 50)
            elif name == "progress":
                worker.finish(claimed)
    uploaded = front.post(  # 3 MB: nginx's own limit is 1
        "/v1/inputs", content=encoded(noise), headers=key | {"content-type": "image/png"}
    )
    picture = front.get(f"/v1/jobs/{job['id']}/images/0", headers=key | {"range": "bytes=0-7"})
    made = front.post("/v1/keys", json={"tenant": "acme"}, headers=key)

    assert told[0] == "snapshot"
    assert told[-1] == "done"
    assert job["urls"]["self"] == f"https://{NAME}/v1/jobs/{job['id']}"
    assert uploaded.status_code == 201, uploaded.text
    assert (picture.status_code, len(picture.content)) == (206, 8)
    assert made.status_code == 201
    assert front.get(f"/v1/jobs/{job['id']}?wait=30", headers=key).json()["status"] == "succeeded"


@pytest.mark.parametrize("name", DOCUMENTED)
def test_a_service_that_was_left_keyless_lets_nobody_in_through_it(
    served: Served, root: Path, tmp_path: Path, name: str
):
    with DOCUMENTED[name](root, tmp_path, served.url.removeprefix("http://")) as front:
        refused = front.get("/v1/jobs")

    assert refused.status_code == 401
    assert "through a proxy" in refused.json()["detail"]
    assert "docs/proxy.md" in refused.json()["detail"]


# nginx with nothing but the address: no header tells it apart, and Host becomes ours
@pytest.mark.parametrize(
    ("more", "reads"),
    [
        ("", 401),  # HTTP/1.0, until nginx 1.29.7
        ("proxy_http_version 1.1;", 200),  # since then: as any program of this machine
        ("proxy_set_header Host $http_host;", 401),
        ("proxy_http_version 1.1; proxy_set_header Host $http_host;", 421),
    ],
)
def test_through_plain_nginx_a_stranger_does_nothing_that_lasts(
    served: Served, redis: Redis, tmp_path: Path, more: str, reads: int
):
    port = free_port()
    at, upstream = f"127.0.0.1:{port}", served.url.removeprefix("http://")
    stranger = {"host": "198.51.100.7"}
    with (
        nginx(tmp_path, PLAIN.format(at=at, upstream=upstream, more=more), port),
        httpx2.Client(base_url=f"http://{at}", headers=stranger, timeout=30) as front,
    ):
        read = front.get("/v1/jobs")
        minted = front.post("/v1/keys", json={"tenant": "evil", "scopes": ["admin"]})
        acts = {
            f"{method} {path}": front.request(method, filled(path), json={}).status_code
            for method, path, scope in ROUTES
            if method not in SAFE_METHODS and scope in {Scope.ADMIN, Scope.WEBHOOKS}
        }

    assert read.status_code == reads
    assert minted.status_code in {401, 421}
    assert set(acts.values()) <= {401, 421}, acts
    assert redis.exists(keys.API_KEYS, keys.RQ_SUSPENDED) == 0


def test_the_traefik_block_names_the_service_as_the_others_do(root: Path):
    http = yaml.safe_load(block(root, "yaml"))["http"]

    (router,) = http["routers"].values()
    (server,) = http["services"][router["service"]]["loadBalancer"]["servers"]
    assert router["rule"] == f"Host(`{NAME}`)"
    assert server["url"] == f"http://{UPSTREAM}"
