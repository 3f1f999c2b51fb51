"""A1: every port that `up` opens, asked by a stranger and by a foreign page."""

from __future__ import annotations

from urllib.parse import urlsplit

import psutil

from tests import doors
from tests.e2e.running import Up


def test_every_port_of_up_is_known_and_tells_a_stranger_nothing(up: Up) -> None:
    api, redis, s3 = (
        urlsplit(url).port
        for url in (up.said["api_url"], up.said["redis_url"], up.said["s3"]["endpoint"])
    )
    family = [psutil.Process(up.process.pid), *up.family()]

    found = doors.open_ports(family)

    assert {address for address, _ in found} == {"127.0.0.1"}
    ports = {port for _, port in found}
    assert {api, redis, s3} < ports
    for port in ports - {api, s3}:
        assert {(a.status, a.origin) for a in doors.answers(port)} <= {(400, None)}, port
        assert not doors.talks_grpc(port)
        assert not doors.talks_tls(port)
    assert not [a for a in doors.answers(s3) if a.status < 400 and a.body]
    assert not [a for a in doors.answers(api) if a.origin]
    assert doors.raw(redis, b"PING\r\n").startswith(b"-NOAUTH")
    assert not doors.sockets_for_others(family)
