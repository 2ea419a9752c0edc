"""The resolver against a real DNS server on loopback, over UDP and TCP."""

import socket
import threading
import time
from collections.abc import Callable, Iterator

import dns.rcode
import pytest

from tests.support.dns_server import DnsServer, Zone
from workers.core.preflight.observed import CaaAnswer, CaaRecord, DnsAnswer, DnsStatus
from workers.edges.web.dns import Resolver


@pytest.fixture
def serve() -> Iterator[Callable[..., DnsServer]]:
    servers: list[DnsServer] = []

    def start(zone: Zone, **kwargs: object) -> DnsServer:
        servers.append(DnsServer(zone, **kwargs))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


def resolver(*servers: DnsServer) -> Resolver:
    return Resolver([("127.0.0.1", server.port) for server in servers])


ZONE: Zone = {
    ("shop.example.com", "A"): ["192.0.2.7", "192.0.2.6"],
    ("shop.example.com", "AAAA"): ["2001:DB8:0::7"],
    ("only.example.com", "A"): ["192.0.2.7"],
    ("empty.example.com", "TXT"): ["x"],
    ("alias.example.com", "CNAME"): ["hop.example.com."],
    ("hop.example.com", "CNAME"): ["shop.example.com."],
    ("dangling.example.com", "CNAME"): ["nowhere.example.com."],
    ("circle.example.com", "CNAME"): ["circle2.example.com."],
    ("circle2.example.com", "CNAME"): ["circle.example.com."],
    ("example.com", "CAA"): ['0 issue "letsencrypt.org"', '128 issuewild ";"'],
    ("own.example.com", "CAA"): ['0 issue ";"'],
    ("own.example.com", "A"): ["192.0.2.7"],
    ("com", "TXT"): ["x"],
}


@pytest.mark.parametrize(
    ("name", "a", "aaaa"),
    [
        ("shop.example.com", DnsAnswer(DnsStatus.ANSWER, ("192.0.2.6", "192.0.2.7")), DnsAnswer(DnsStatus.ANSWER, ("2001:db8::7",))),
        ("only.example.com", DnsAnswer(DnsStatus.ANSWER, ("192.0.2.7",)), DnsAnswer(DnsStatus.NODATA)),
        ("empty.example.com", DnsAnswer(DnsStatus.NODATA), DnsAnswer(DnsStatus.NODATA)),
        ("absent.example.com", DnsAnswer(DnsStatus.NXDOMAIN), DnsAnswer(DnsStatus.NXDOMAIN)),
        ("alias.example.com", DnsAnswer(DnsStatus.ANSWER, ("192.0.2.6", "192.0.2.7")), DnsAnswer(DnsStatus.ANSWER, ("2001:db8::7",))),
        ("dangling.example.com", DnsAnswer(DnsStatus.NXDOMAIN), DnsAnswer(DnsStatus.NXDOMAIN)),
        ("circle.example.com", DnsAnswer(DnsStatus.SERVFAIL), DnsAnswer(DnsStatus.SERVFAIL)),
        ("x" * 64 + ".example.com", DnsAnswer(DnsStatus.NXDOMAIN), DnsAnswer(DnsStatus.NXDOMAIN)),
    ],
)  # fmt: skip
def test_what_dns_says_of_a_name_is_a_value(
    serve: Callable[..., DnsServer], name: str, a: DnsAnswer, aaaa: DnsAnswer
) -> None:
    found = resolver(serve(ZONE)).look_up([name])[name]
    assert (found.a, found.aaaa) == (a, aaaa)


def test_ipv6_addresses_come_first_as_the_ca_prefers_them(serve: Callable[..., DnsServer]) -> None:
    found = resolver(serve(ZONE)).look_up(["shop.example.com"])["shop.example.com"]
    assert found.addresses == ("2001:db8::7", "192.0.2.6", "192.0.2.7")


def test_caa_records_are_those_of_the_closest_name_upwards(serve: Callable[..., DnsServer]) -> None:
    found = resolver(serve(ZONE)).look_up(
        ["shop.example.com", "own.example.com", "www.own.example.com", "x.example.net"]
    )
    above = CaaAnswer(
        DnsStatus.ANSWER,
        "example.com",
        (CaaRecord(0, "issue", "letsencrypt.org"), CaaRecord(128, "issuewild", ";")),
    )
    own = CaaAnswer(DnsStatus.ANSWER, "own.example.com", (CaaRecord(0, "issue", ";"),))
    assert found["shop.example.com"].caa == above
    assert found["own.example.com"].caa == own
    assert found["www.own.example.com"].caa == own
    assert found["x.example.net"].caa == CaaAnswer(DnsStatus.NODATA)


def test_a_failure_below_hides_caa_records_above(serve: Callable[..., DnsServer]) -> None:
    found = resolver(serve(ZONE, special={"sub.example.com": dns.rcode.SERVFAIL})).look_up(
        ["x.sub.example.com"]
    )
    assert found["x.sub.example.com"].caa == CaaAnswer(DnsStatus.SERVFAIL, "sub.example.com")


def test_names_that_share_parents_ask_for_each_parent_once(serve: Callable[..., DnsServer]) -> None:
    server = serve(ZONE)
    names = [f"n{i}.example.com" for i in range(20)]
    resolver(server).look_up(names)
    assert server.asked.count(("example.com", "CAA")) == 1
    assert len(server.asked) == len(set(server.asked)) == 20 * 3 + 2


@pytest.mark.parametrize("rcode", [dns.rcode.SERVFAIL, dns.rcode.REFUSED, dns.rcode.FORMERR])
def test_a_resolver_that_cannot_answer_is_servfail(
    serve: Callable[..., DnsServer], rcode: dns.rcode.Rcode
) -> None:
    found = resolver(serve(ZONE, special={"shop.example.com": rcode})).look_up(["shop.example.com"])
    assert found["shop.example.com"].a == DnsAnswer(DnsStatus.SERVFAIL)


def test_the_next_server_is_asked_when_one_fails_or_is_silent(serve: Callable[..., DnsServer]) -> None:
    good = serve(ZONE)
    failing = serve(ZONE, special={"shop.example.com": dns.rcode.SERVFAIL})
    silent = serve(ZONE)
    silent.silent = True
    for first in (failing, silent):
        found = resolver(first, good).look_up(["shop.example.com"])
        assert found["shop.example.com"].a.status is DnsStatus.ANSWER
        assert ("shop.example.com", "A") in first.asked


def test_silence_is_no_reply_within_the_deadline(serve: Callable[..., DnsServer]) -> None:
    server = serve(ZONE)
    server.silent = True
    start = time.monotonic()
    names = [f"n{i}.example.com" for i in range(100)]
    found = resolver(server).look_up(names, deadline_seconds=0.5)
    assert time.monotonic() - start < 2.5
    assert {answer.a.status for answer in found.values()} == {DnsStatus.NO_REPLY}
    assert found["n0.example.com"].caa.status is DnsStatus.NO_REPLY


def test_a_resolver_that_is_not_there_is_no_reply() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    found = Resolver([("127.0.0.1", port)]).look_up(["a.example"], deadline_seconds=0.4)
    assert found["a.example"].a.status is DnsStatus.NO_REPLY
    assert Resolver([]).look_up(["a.example"])["a.example"].a.status is DnsStatus.NO_REPLY


def test_a_truncated_answer_is_asked_for_again_over_tcp(serve: Callable[..., DnsServer]) -> None:
    server = serve(ZONE)
    server.truncate = True
    found = resolver(server).look_up(["shop.example.com"])
    assert found["shop.example.com"].a.values == ("192.0.2.6", "192.0.2.7")


def test_a_hundred_names_are_looked_up_in_well_under_the_deadline(serve: Callable[..., DnsServer]) -> None:
    server = serve({(f"n{i}.example.com", "A"): ["192.0.2.1"] for i in range(100)})
    found = resolver(server).look_up([f"n{i}.example.com" for i in range(100)], deadline_seconds=10)
    assert {answer.a.status for answer in found.values()} == {DnsStatus.ANSWER}


def test_threads_can_share_a_resolver(serve: Callable[..., DnsServer]) -> None:
    shared = resolver(serve(ZONE))
    results: list[DnsStatus] = []
    threads = [
        threading.Thread(
            target=lambda: results.append(shared.look_up(["shop.example.com"])["shop.example.com"].a.status)
        )
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert results == [DnsStatus.ANSWER] * 8
