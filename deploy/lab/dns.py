"""The DNS of the lab: one authoritative server for whatever a test says, in a thread of the lab's own process.

Not Pebble's test server: that one knows no NXDOMAIN, and its options differ from one distribution to the next.
"""

import contextlib
import selectors
import socket
import threading
from dataclasses import dataclass

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

from deploy.lab.network import Network

PORT = 53
TTL_SECONDS = 1
SOA = "ns.lab.test. hostmaster.lab.test. 1 3600 600 86400 1"
_CHASE = 8  # aliases followed


@dataclass(frozen=True, slots=True)
class Query:
    """One question that was asked.

    Attributes:
        client: address of who asked.
        name: in lower case, without a trailing dot.
        kind: "A", "AAAA", "CAA" …
    """

    client: str
    name: str
    kind: str


class Dns:
    """Answers over UDP and TCP. A name of which nothing was said does not exist (NXDOMAIN).

    Attributes:
        server: "address:port", for CERTPILOT_DNS_SERVERS.
    """

    def __init__(self, network: Network) -> None:
        """Prepare the server; it is silent yet."""
        self._network = network
        self.server = f"{network.authority}:{PORT}"
        self._lock = threading.Lock()
        self._records: dict[str, dict[str, tuple[str, ...]]] = {}
        self._servfail: set[str] = set()
        self._silent: set[str] = set()
        self._views: dict[tuple[str, str], tuple[str, ...]] = {}
        self._queries: list[Query] = []
        self._thread: threading.Thread | None = None
        self._wake: socket.socket | None = None

    def start(self) -> None:
        """Start answering; nothing happens where it does already."""
        if self._thread is None:
            doors = [self._network.cell.socket(kind=kind) for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM)]
            for door in doors:
                door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                door.bind((self._network.authority, PORT))
            doors[1].listen(64)
            self._wake, sleeper = socket.socketpair()
            self._thread = threading.Thread(target=self._serve, args=(*doors, sleeper), name="lab-dns")
            self._thread.start()

    def stop(self) -> None:
        """Stop answering: queries are refused, as by a machine without a DNS server."""
        if self._thread is not None and self._wake is not None:
            self._wake.close()
            self._thread.join()
            self._thread = self._wake = None

    def set_a(self, name: str, *addresses: str) -> None:
        """Give a name these IPv4 addresses and no others; none of them leaves a name without an address."""
        self._set(name, "A", addresses)

    def set_aaaa(self, name: str, *addresses: str) -> None:
        """Give a name these IPv6 addresses and no others."""
        self._set(name, "AAAA", addresses)

    def set_caa(self, name: str, *issuers: str, tag: str = "issue") -> None:
        """Allow only these issuers to issue for a name (RFC 8659); none removes the records."""
        self._set(name, "CAA", tuple(f'0 {tag} "{issuer}"' for issuer in issuers))

    def set_cname(self, name: str, target: str) -> None:
        """Make a name an alias of another, with no records of its own."""
        with self._lock:
            self._records[_plain(name)] = {"CNAME": (f"{_plain(target)}.",)}

    def set_servfail(self, name: str, *, broken: bool = True) -> None:
        """Let every query for a name end in SERVFAIL, or no longer."""
        with self._lock:
            (self._servfail.add if broken else self._servfail.discard)(_plain(name))

    def set_silent(self, name: str, *, silent: bool = True) -> None:
        """Let queries for a name go unanswered, or no longer."""
        with self._lock:
            (self._silent.add if silent else self._silent.discard)(_plain(name))

    def show_to(self, client: str, name: str, *addresses: str) -> None:
        """Give one client other addresses of a name than everybody else; none: what everybody sees.

        Args:
            client: the client's address.
            name: the name; for this client it has no IPv6 address then.
            addresses: IPv4.
        """
        with self._lock:
            self._views.pop((client, _plain(name)), None)
            if addresses:
                self._views[client, _plain(name)] = addresses

    def clear(self, name: str) -> None:
        """Forget all that was said of a name: it does not exist."""
        with self._lock:
            self._views = {key: value for key, value in self._views.items() if key[1] != _plain(name)}
            self._records.pop(_plain(name), None)
            self._servfail.discard(_plain(name))
            self._silent.discard(_plain(name))

    def queries(self, name: str | None = None) -> list[Query]:
        """Give what was asked, oldest first: of one name, or all."""
        with self._lock:
            return [query for query in self._queries if name is None or query.name == _plain(name)]

    def _set(self, name: str, kind: str, values: tuple[str, ...]) -> None:
        with self._lock:
            records = self._records.setdefault(_plain(name), {})
            records.pop("CNAME", None)
            records[kind] = values

    def _serve(self, udp: socket.socket, tcp: socket.socket, sleeper: socket.socket) -> None:
        with udp, tcp, sleeper, selectors.DefaultSelector() as selector:
            for door in (udp, tcp, sleeper):
                selector.register(door, selectors.EVENT_READ)
            while True:
                ready = {key.fileobj for key, _ in selector.select()}
                if sleeper in ready:
                    return
                # A client may be gone before it has its answer, or send what is no DNS.
                with contextlib.suppress(OSError, dns.exception.DNSException):
                    self._serve_tcp(tcp) if tcp in ready else self._serve_udp(udp)

    def _serve_udp(self, udp: socket.socket) -> None:
        wire, client = udp.recvfrom(65535)
        query = dns.message.from_wire(wire)
        response = self._respond(query, client[0])
        if response is not None:
            try:
                udp.sendto(response.to_wire(max_size=max(512, query.payload)), client)
            except dns.exception.TooBig:
                short = dns.message.make_response(query)
                short.flags |= dns.flags.TC
                udp.sendto(short.to_wire(), client)

    def _serve_tcp(self, tcp: socket.socket) -> None:
        connection, client = tcp.accept()
        with connection, connection.makefile("rb") as stream:
            connection.settimeout(2)
            wire = stream.read(int.from_bytes(stream.read(2)))
            response = self._respond(dns.message.from_wire(wire), client[0])
            if response is not None:
                connection.sendall(response.to_wire(prepend_length=True))

    def _respond(self, query: dns.message.Message, client: str) -> dns.message.Message | None:
        question = query.question[0]
        name, kind = _plain(question.name.to_text()), dns.rdatatype.to_text(question.rdtype)
        response = dns.message.make_response(query, recursion_available=True)
        response.flags |= dns.flags.AA
        with self._lock:
            self._queries.append(Query(client, name, kind))
            if name in self._silent:
                return None
            if name in self._servfail:
                response.set_rcode(dns.rcode.SERVFAIL)
                return response
            exists = name in self._records or any(known.endswith(f".{name}") for known in self._records)
            for _ in range(_CHASE):
                records = self._records_for(client, name)
                alias = kind != "CNAME" and records.get("CNAME")
                values = alias or records.get(kind, ())
                if values:
                    owner = dns.name.from_text(name)
                    response.answer.append(
                        dns.rrset.from_text(owner, TTL_SECONDS, "IN", "CNAME" if alias else kind, *values)
                    )
                if not alias:
                    break
                name = _plain(alias[0])
        if not exists:
            response.set_rcode(dns.rcode.NXDOMAIN)
        if not response.answer:
            response.authority.append(dns.rrset.from_text(dns.name.root, TTL_SECONDS, "IN", "SOA", SOA))
        return response

    def _records_for(self, client: str, name: str) -> dict[str, tuple[str, ...]]:
        view = self._views.get((client, name))
        return self._records.get(name, {}) if view is None else {"A": view}


def _plain(name: str) -> str:
    return name.rstrip(".").lower()
