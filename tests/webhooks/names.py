"""A name server by hand: a real one (dnslib over UDP), and a resolver that asks it.

Owns the zone. Each question for a name takes the next of its answers, so that a name can be public
when it is looked at first and inner when it is looked at again.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from ipaddress import ip_address

from dnslib import AAAA, CNAME, QTYPE, RR, A, DNSRecord
from dnslib.server import BaseResolver, DNSServer


class Zone(BaseResolver):
    """Names with their lists of answers; TTL 0."""

    def __init__(self) -> None:
        self.answers: dict[str, list[Sequence[str]]] = {}
        self.asked = 0

    def resolve(self, request, handler):
        reply = request.reply()
        name = str(request.q.qname).rstrip(".")
        if request.q.qtype == QTYPE.A:
            self.asked += 1
            turns = self.answers.get(name, [()])
            for answer in turns.pop(0) if len(turns) > 1 else turns[0]:
                self._add(reply, name, answer)
        return reply

    def _add(self, reply, name: str, answer: str) -> None:
        """An address, or `name=address`: an alias and the address it stands for."""
        alias, _, address = answer.rpartition("=")
        if alias:
            reply.add_answer(RR(name, QTYPE.CNAME, rdata=CNAME(alias), ttl=0))
        kind, data = (QTYPE.AAAA, AAAA) if ":" in address else (QTYPE.A, A)
        packed = tuple(ip_address(address).packed)  # dnslib's own parser knows no ::ffff:127.0.0.1
        reply.add_answer(RR(alias or name, kind, rdata=data(packed), ttl=0))


class NameServer:
    """The zone, served on a port of 127.0.0.1."""

    def __init__(self) -> None:
        self.zone = Zone()
        self._server = DNSServer(self.zone, address="127.0.0.1", port=0, logger=_Quiet())
        self.port = self._server.server.server_address[1]

    def __enter__(self):
        self._server.start_thread()
        return self

    def __exit__(self, *_) -> None:
        self._server.server.shutdown()
        self._server.server.server_close()

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        """Every address in the answer, as the system's resolver would give them."""
        question = DNSRecord.question(host).pack()
        answer = await asyncio.to_thread(self._ask, question)
        return [str(rr.rdata) for rr in DNSRecord.parse(answer).rr if rr.rtype != QTYPE.CNAME]

    def _ask(self, question: bytes) -> bytes:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
            asker.settimeout(5)
            asker.sendto(question, ("127.0.0.1", self.port))
            return asker.recv(4096)


class _Quiet:
    def __getattr__(self, _):
        return lambda *_: None
