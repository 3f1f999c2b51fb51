"""T41-T43: nothing inside is reached, whatever the URL, the name server or the receiver says.

What counts is not the outcome of an attempt but the connections: those that an inner server
accepted, and those that were tried here at all (Python's audit event `socket.connect`).
"""

from __future__ import annotations

import socket
import ssl
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from AntiSSRF.ipaddress_ranges import IPAddressRanges

from jobs.errors import SettingsError, TargetRefused
from jobs.settings import RoleSettings
from jobs.webhooks.addresses import address_of, network_of, permitted, public
from jobs.webhooks.ssrf_guard import EgressRules, _own, permitted_addresses, resolver, target_of
from tests.webhooks.address_table import LITERALS, NOT_PUBLIC, PUBLIC, URLS
from tests.webhooks.names import NameServer
from tests.webhooks.receivers import Answering, Receiver
from worker.courier.http_sender import Limits, Outcome, WebhookRequest, open_sender

pytestmark = pytest.mark.anyio
OPEN = EgressRules(
    schemes=frozenset({"http", "https"}), ports=(range(1, 65_536),)
)  # all but the addresses
# By thread: a client that another test left behind once reconnected to its server meanwhile.
_tried: dict[int, list[Any]] = {}


def _note(event: str, args: tuple[Any, ...]) -> None:
    if _tried and event == "socket.connect" and args[0].type == socket.SOCK_STREAM:
        _tried.get(threading.get_ident(), []).append(args[1])


sys.addaudithook(_note)  # there is no taking it away: it does nothing outside `connections`


@contextmanager
def connections() -> Iterator[list[Any]]:
    """Every TCP connection that this thread, its event loop's, tries meanwhile."""
    made = _tried[threading.get_ident()] = []
    try:
        yield made
    finally:
        _tried.clear()


def letter(url: str) -> WebhookRequest:
    return WebhookRequest(
        url=url, event="msg_1", body=b"{}", secrets=("whsec_AAAA",), timestamp_s=1
    )


async def post(url: str, resolve=None, egress: EgressRules = OPEN) -> Outcome:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    limits = Limits(total_s=3, connect_s=2, answer_s=0.2)
    async with open_sender(
        egress, resolve or resolver(), agent="test", limits=limits, tls=tls
    ) as sender:
        return (await sender.post(letter(url))).outcome


@pytest.mark.parametrize("text", NOT_PUBLIC)
def test_an_address_of_the_table_is_not_public(text: str):
    assert not public(ip_address(text))
    assert not permitted(ip_address(text))


@pytest.mark.parametrize("text", PUBLIC)
def test_an_address_beside_the_table_is_public(text: str):
    assert public(ip_address(text))


def test_every_range_of_antissrf_is_refused_by_our_own_table():
    ranges = [ip_network(cidr) for cidr in IPAddressRanges.recommended_latest]

    missed = [
        str(n) for n in ranges if public(n[0]) or public(n[-1]) or public(n[n.num_addresses // 2])
    ]

    assert not missed
    print(f"T41: {len(ranges)} ranges of AntiSSRF and {len(NOT_PUBLIC)} addresses, all refused")


async def test_no_address_literal_or_url_of_the_table_is_connected_to():
    async with Receiver() as inner:
        hosts = [f"[{a}]" if ":" in a else a for a in NOT_PUBLIC] + list(LITERALS)
        urls = [f"http://{host}:{inner.port}/" for host in hosts]
        urls += [url.format(port=inner.port) for url in URLS]

        with connections() as tried:
            outcomes = [await post(url) for url in urls]

        assert set(outcomes) == {Outcome.BLOCKED}
        assert (inner.accepted, tried) == (0, [])
        print(f"T41: {len(urls)} URLs, connections tried 0, accepted {inner.accepted}")


async def test_the_table_by_name_is_not_connected_to_either():
    with NameServer() as names:
        async with Receiver() as inner:
            for i, address in enumerate(NOT_PUBLIC):
                names.zone.answers[f"n{i}.test"] = [[address]]
            with connections() as tried:
                outcomes = [
                    await post(f"http://n{i}.test:{inner.port}/", names.resolve)
                    for i in range(len(NOT_PUBLIC))
                ]

            assert names.zone.asked == len(NOT_PUBLIC)
            assert set(outcomes) == {Outcome.BLOCKED}
            assert (inner.accepted, tried) == (0, [])


@pytest.mark.parametrize(
    ("attack", "answers"),
    [
        ("rebinding", [["192.0.1.7"], ["127.0.0.1"]]),  # public at registration, inner afterwards
        ("mixed", [["8.8.8.8", "127.0.0.1"]]),
        ("mixed, inner first", [["127.0.0.1", "8.8.8.8"]]),
        ("mixed families", [["8.8.8.8", "::1"]]),
        ("mapped", [["::ffff:127.0.0.1"]]),
        ("alias to inner", [["inner.test=127.0.0.1"]]),
        ("no answer", [[]]),
    ],
)
async def test_what_a_name_server_can_do_is_blocked_at_every_attempt(attack: str, answers):
    with NameServer() as names:
        async with Receiver() as inner:
            names.zone.answers["evil.test"] = [list(turn) for turn in answers]
            if attack == "rebinding":
                found = await permitted_addresses("evil.test", 80, OPEN, names.resolve)
                assert found == ["192.0.1.7"]

            with connections() as tried:
                outcomes = [
                    await post(f"http://evil.test:{inner.port}/", names.resolve) for _ in range(3)
                ]

            assert set(outcomes) == {Outcome.BLOCKED}
            assert (inner.accepted, tried) == (0, [])
            print(f"T42 {attack}: 3 attempts, {names.zone.asked} questions, reached 0")


async def test_a_name_is_asked_once_an_attempt_and_its_number_is_connected_to(
    loopback: EgressRules,
):
    with NameServer() as names:
        async with Receiver() as receiver:
            names.zone.answers["good.test"] = [["127.0.0.1"], ["127.0.0.2"]]

            with connections() as tried:
                outcome = await post(
                    f"http://good.test:{receiver.port}/x?y=1", names.resolve, loopback
                )

            assert (outcome, names.zone.asked) == (Outcome.DELIVERED, 1)
            assert tried == [("127.0.0.1", receiver.port)]
            (got,) = receiver.got
            assert (got.path, got.headers["host"]) == ("/x?y=1", f"good.test:{receiver.port}")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_a_failure_and_is_not_followed(status: int, loopback: EgressRules):
    async with Receiver() as elsewhere:
        to = f"http://127.0.0.1:{elsewhere.port}/latest/meta-data/"
        async with Answering((status, {"Location": to})) as receiver:
            with connections() as tried:
                outcome = await post(receiver.url, egress=loopback)

            assert outcome is Outcome.REDIRECTED
            assert (elsewhere.accepted, len(tried)) == (0, 1)
            print(f"T43 {status}: followed 0")


async def test_proxies_of_the_environment_are_not_asked(
    loopback: EgressRules, monkeypatch: pytest.MonkeyPatch
):
    async with Receiver() as proxy, Receiver() as receiver:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")

        assert await post(receiver.url, egress=loopback) is Outcome.DELIVERED
        assert (proxy.accepted, receiver.accepted) == (0, 1)


def test_an_address_of_this_machine_is_refused_though_it_were_public():
    # lo answers on all of 127/8: to the kernel it is this machine's own, whatever the table says
    assert _own(ip_address("127.0.0.1"), OPEN)
    assert not _own(ip_address("8.8.8.8"), OPEN)
    assert not _own(ip_address("127.0.0.1"), EgressRules(networks=(network_of("127.0.0.0/8"),)))


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://Example.COM/hook", "https://example.com"),
        ("https://example.com:443/hook?a=b", "https://example.com"),
        ("https://example.com:8443", "https://example.com:8443"),
        ("https://example.com./", "https://example.com"),
        ("https://xn--bcher-kva.example/", "https://xn--bcher-kva.example"),
        ("https://[2606:4700::1]/", "https://[2606:4700::1]"),
    ],
)
def test_a_good_url_has_its_origin(url: str, origin: str):
    assert target_of(url, EgressRules()).origin == origin


@pytest.mark.parametrize(
    "url", ["http://example.com/", "https://example.com:22/", "https://e.com:80"]
)
def test_by_default_only_https_on_its_own_ports(url: str):
    with pytest.raises(TargetRefused):
        target_of(url, EgressRules())


def test_the_rules_come_from_the_settings_and_a_wrong_one_says_so():
    rules = EgressRules.of(
        RoleSettings(
            webhook_schemes="https, http",
            webhook_ports="443,8000-8001",
            webhook_networks="10.0.0.0/8",
        )
    )

    assert target_of("http://10.1.2.3:8001/", rules).port == 8001
    for wrong in (
        {"webhook_schemes": "gopher"},
        {"webhook_ports": "0"},
        {"webhook_ports": "9-8"},
        {"webhook_networks": "10.0.0.1/8"},
    ):
        with pytest.raises(SettingsError, match="PRINTWORKS_WEBHOOK_"):
            EgressRules.of(RoleSettings(**wrong))


def test_no_refusal_says_which_address_it_was():
    said = set()
    for host in ("10.0.0.1", "127.0.0.1", "169.254.169.254", "[::1]"):
        with pytest.raises(TargetRefused) as refusal:
            target_of(f"https://{host}/", EgressRules())
        said.add(str(refusal.value))

    assert len(said) == 1
    assert not any(c.isdigit() for c in said.pop())
    assert address_of("127.1") is None
