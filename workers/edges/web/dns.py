"""Asking DNS: addresses and CAA records of many names at once, within one deadline.

All questions of a call run in one thread (asyncio), so that a certificate with a hundred names costs no more threads
than one with one. What a look-up came to is a value; nothing here raises for what DNS says or does not say.
"""

import asyncio
import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import dns.asyncquery
import dns.exception
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.resolver
import dns.rrset

from workers.core.preflight.observed import CaaAnswer, CaaRecord, DnsAnswer, DnsStatus, NameAnswer

TRY_SECONDS = 0.8
"""How long one server is waited for before the next is asked: two tries fit into the 1.6 s of a preflight."""

MAX_AT_ONCE = 64
MAX_CNAMES = 8
_ANSWERED = frozenset({dns.rcode.NOERROR, dns.rcode.NXDOMAIN})


@dataclass(frozen=True, slots=True)
class _Reply:
    """One question's outcome, its CNAMEs followed."""

    status: DnsStatus
    records: dns.rrset.RRset | None = None


class Resolver:
    """Asks recursive resolvers. Usable from several threads at once: it holds no connection."""

    def __init__(self, servers: Sequence[tuple[str, int]] | None = None) -> None:
        """Name the servers to ask.

        Args:
            servers: address and port of each, in the order in which they are asked; None: those of the system, read
                anew for each call.
        """
        self._servers = None if servers is None else tuple(servers)

    def look_up(self, names: Iterable[str], *, deadline_seconds: float = 2.5) -> dict[str, NameAnswer]:
        """Look up A, AAAA and CAA of every name, all at once.

        Args:
            names: A-labels.
            deadline_seconds: how long the whole may take; what is not answered by then is NO_REPLY.

        Returns:
            The answers by name. CAA records are looked for at the name and upwards (RFC 8659 section 3).
        """
        return asyncio.run(self._look_up(tuple(dict.fromkeys(names)), deadline_seconds))

    async def addresses(self, name: str, *, deadline_seconds: float) -> tuple[DnsAnswer, DnsAnswer]:
        """Look up A and AAAA of one name, for callers that run in an event loop already."""
        asking = _Asking(self._current_servers(), asyncio.get_running_loop().time() + deadline_seconds)
        a, aaaa = await asyncio.gather(asking.ask(name, "A"), asking.ask(name, "AAAA"))
        return _addresses(a), _addresses(aaaa)

    def _current_servers(self) -> tuple[tuple[str, int], ...]:
        if self._servers is not None:
            return self._servers
        try:
            system = dns.resolver.Resolver()
        except (dns.exception.DNSException, OSError):
            return ()
        return tuple((str(server), system.port) for server in system.nameservers)

    async def _look_up(self, names: tuple[str, ...], deadline_seconds: float) -> dict[str, NameAnswer]:
        asking = _Asking(self._current_servers(), asyncio.get_running_loop().time() + deadline_seconds)
        questions = [(name, kind) for name in names for kind in ("A", "AAAA")]
        # Many names share their parents: each is asked once.
        questions += [(up, "CAA") for up in dict.fromkeys(up for name in names for up in _upwards(name))]
        replies = dict(
            zip(questions, await asyncio.gather(*(asking.ask(*q) for q in questions)), strict=True)
        )
        return {
            name: NameAnswer(
                a=_addresses(replies[name, "A"]),
                aaaa=_addresses(replies[name, "AAAA"]),
                caa=_closest_caa([(up, replies[up, "CAA"]) for up in _upwards(name)]),
            )
            for name in names
        }


class _Asking:
    """The questions of one call: its servers, its deadline, its limit of questions at once."""

    def __init__(self, servers: tuple[tuple[str, int], ...], deadline: float) -> None:
        self._servers = servers
        self._deadline = deadline
        self._turn = asyncio.Semaphore(MAX_AT_ONCE)

    async def ask(self, name: str, kind: str) -> _Reply:
        try:
            async with asyncio.timeout_at(self._deadline), self._turn:
                return await self._follow(dns.name.from_text(name), dns.rdatatype.from_text(kind))
        except TimeoutError:
            return _Reply(DnsStatus.NO_REPLY)
        except dns.exception.DNSException:  # the name itself cannot be put into a question
            return _Reply(DnsStatus.NXDOMAIN)

    async def _follow(self, name: dns.name.Name, kind: dns.rdatatype.RdataType) -> _Reply:
        """Ask, and ask again for the end of a CNAME that the server did not follow itself."""
        for _ in range(MAX_CNAMES):
            message = await self._one(name, kind)
            if isinstance(message, DnsStatus):
                return _Reply(message)
            if message.rcode() == dns.rcode.NXDOMAIN:
                return _Reply(DnsStatus.NXDOMAIN)
            try:
                chain = message.resolve_chaining()
            except dns.exception.DNSException:
                break
            if chain.answer is not None:
                return _Reply(DnsStatus.ANSWER, chain.answer)
            if chain.canonical_name == name:
                return _Reply(DnsStatus.NODATA)
            name = chain.canonical_name
        return _Reply(DnsStatus.SERVFAIL)

    async def _one(
        self, name: dns.name.Name, kind: dns.rdatatype.RdataType
    ) -> dns.message.QueryMessage | DnsStatus:
        """Ask one server after the other until one answers; the deadline around it ends the waiting."""
        query = dns.message.make_query(name, kind, use_edns=0, payload=1232)
        while self._servers:
            failed = False
            for host, port in self._servers:
                try:
                    answer, _ = await dns.asyncquery.udp_with_fallback(
                        query, host, TRY_SECONDS, port, ignore_unexpected=True, ignore_errors=True
                    )
                except (dns.exception.Timeout, OSError, EOFError):
                    continue
                except (dns.exception.DNSException, ValueError):
                    failed = True
                    continue
                if isinstance(answer, dns.message.QueryMessage) and answer.rcode() in _ANSWERED:
                    return answer
                failed = True
            if failed:
                return DnsStatus.SERVFAIL
            await asyncio.sleep(
                0.05
            )  # a server that refuses at once must not be asked in a circle without a pause
        return DnsStatus.NO_REPLY


def _addresses(reply: _Reply) -> DnsAnswer:
    if reply.records is None:
        return DnsAnswer(reply.status)
    return DnsAnswer(
        DnsStatus.ANSWER, tuple(sorted({str(ipaddress.ip_address(r.address)) for r in reply.records}))
    )


def _upwards(name: str) -> tuple[str, ...]:
    """The name and everything above it, without the root."""
    labels = name.rstrip(".").split(".")
    return tuple(".".join(labels[start:]) for start in range(len(labels)))


def _closest_caa(replies: Sequence[tuple[str, _Reply]]) -> CaaAnswer:
    """The first records on the way up. A failure before them may hide some, so it is the answer (boulder, va/caa.go)."""
    for at, reply in replies:
        if reply.status in {DnsStatus.SERVFAIL, DnsStatus.NO_REPLY}:
            return CaaAnswer(reply.status, at)
        if reply.records is not None:
            records = [
                CaaRecord(
                    r.flags, r.tag.decode("ascii", "replace").lower(), r.value.decode("utf-8", "replace")
                )
                for r in reply.records
            ]
            # Resolvers shuffle; a message that names the records should not change with each look-up.
            return CaaAnswer(
                DnsStatus.ANSWER, at, tuple(sorted(records, key=lambda r: (r.tag, r.value, r.flags)))
            )
    return CaaAnswer(DnsStatus.NODATA)
