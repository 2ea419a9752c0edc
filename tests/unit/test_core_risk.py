"""What a look at public DNS says and when it is made, and which of the causes that were found is told."""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from itertools import permutations

import pytest

from contracts.codes import Code
from workers.core.lifetime.public_view import PublicView, is_public, judge_public
from workers.core.lifetime.renewal import window_of
from workers.core.lifetime.risk import SEEN_IN_DNS, SEEN_ON_DISK, over_for_a_job, to_tell
from workers.core.model import Certificate, Problem
from workers.core.preflight.observed import (
    CaaAnswer,
    DnsAnswer,
    DnsStatus,
    Handshake,
    HandshakeError,
    NameAnswer,
)

NOW = datetime(2026, 11, 25, tzinfo=UTC)
SERVER, ELSEWHERE, CLOUDFLARE = "203.0.113.7", "192.0.2.9", "104.16.1.1"
KNOWN = Certificate("0a", ("a.example", "b.example"), "CA", NOW, NOW + timedelta(days=90))
OTHER = Certificate("ff", ("a.example",), "CA", NOW, NOW + timedelta(days=90))


# --- public DNS -----------------------------------------------------------------------------------------------------


def dns(*addresses: str, status: DnsStatus = DnsStatus.ANSWER) -> NameAnswer:
    none = DnsAnswer(DnsStatus.NODATA if status is DnsStatus.ANSWER else status)
    return NameAnswer(DnsAnswer(status, addresses), none, CaaAnswer(DnsStatus.NODATA))


HERE, NOWHERE, AWAY = dns(SERVER), dns(status=DnsStatus.NXDOMAIN), dns(ELSEWHERE)
SILENT = dns(status=DnsStatus.NO_REPLY)


def there(
    shown: Certificate | None, name: str = "a.example", error: HandshakeError | None = None
) -> Handshake:
    return Handshake(ELSEWHERE, 443, name, certificate=shown, error=error)


def look(*answers: NameAnswer, seen: Sequence[Handshake] = ()) -> PublicView:
    by_name = dict(zip(KNOWN.names, answers, strict=False))
    return judge_public(tuple(by_name), KNOWN, {SERVER}, by_name, seen)


def code(view: PublicView) -> Code | None:
    return view.problem and view.problem.code


def test_name_that_leads_elsewhere_or_nowhere_is_told() -> None:
    assert code(look(AWAY, seen=[there(OTHER)])) is Code.DNS_WRONG_SERVER
    assert code(look(AWAY, seen=[there(None, error=HandshakeError.REFUSED)])) is Code.DNS_WRONG_SERVER
    assert code(look(NOWHERE)) is Code.DNS_NOT_RESOLVING


@pytest.mark.parametrize("answer", [HERE, dns(CLOUDFLARE), dns(SERVER, CLOUDFLARE)])
def test_name_that_leads_to_the_server_or_its_proxy_is_well(answer: NameAnswer) -> None:
    assert look(answer) == PublicView(None, SEEN_IN_DNS)


@pytest.mark.parametrize(
    "seen", [there(KNOWN), there(None, error=HandshakeError.NO_ROUTE)], ids=["copied", "no way there"]
)
def test_foreign_address_that_may_be_the_servers_is_no_problem_and_ends_none(seen: Handshake) -> None:
    # The certificate may have been copied to a machine that the CA does not find the challenge on.
    assert look(AWAY, seen=[seen]) == PublicView(None, frozenset({Code.DNS_NOT_RESOLVING}))


@pytest.mark.parametrize("answer", [SILENT, dns(status=DnsStatus.SERVFAIL)])
def test_what_no_resolver_answers_is_no_problem_and_ends_none(answer: NameAnswer) -> None:
    assert look(answer) == PublicView(None, frozenset())
    assert judge_public(("a.example",), KNOWN, {SERVER}, {}, ()) == PublicView(None, frozenset())


def test_one_of_two_addresses_is_what_visitors_and_the_ca_reach_either() -> None:
    assert code(look(dns(SERVER, ELSEWHERE), seen=[there(OTHER)])) is None


def test_every_name_has_to_lead_here() -> None:
    view = look(HERE, AWAY, seen=[there(OTHER, "b.example")])
    assert view.problem is not None
    assert (view.problem.code, view.problem.names) == (Code.DNS_WRONG_SERVER, ("b.example",))
    assert look(HERE, SILENT) == PublicView(None, frozenset())


@pytest.mark.parametrize("order", [(AWAY, NOWHERE), (NOWHERE, AWAY)])
def test_of_two_names_that_are_wrong_the_same_is_told_as_by_the_preflight(
    order: tuple[NameAnswer, ...],
) -> None:
    view = look(*order, seen=[there(OTHER, name) for name in KNOWN.names])
    assert (code(view), view.over) == (Code.DNS_NOT_RESOLVING, frozenset())


def test_cause_that_no_name_shows_any_more_is_over_though_another_stands() -> None:
    assert look(HERE, NOWHERE).over == {Code.DNS_WRONG_SERVER}
    assert look(HERE, AWAY, seen=[there(OTHER, "b.example")]).over == {Code.DNS_NOT_RESOLVING}
    assert look(SILENT, NOWHERE).over == frozenset()


def test_public_dns_is_looked_at_once_a_week_and_always_in_the_window_or_while_it_is_at_fault() -> None:
    draws = [number / 700 for number in range(700)]
    early = [is_public(KNOWN, None, NOW, draw) for draw in draws]
    assert 90 <= sum(early) <= 110
    assert all(is_public(KNOWN, None, window_of(KNOWN).opens_at, draw) for draw in draws)
    assert all(is_public(KNOWN, "DNS_WRONG_SERVER", NOW, draw) for draw in draws)


# --- what is told ---------------------------------------------------------------------------------------------------


def problem(found: Code, beside: Collection[Code] | None = None) -> Problem:
    return Problem(found, "m", beside=None if beside is None else frozenset(beside))


def test_cause_is_told_once_and_again_when_one_comes_that_blocks_more() -> None:
    assert to_tell(None, problem(Code.DNS_WRONG_SERVER), lapsed=False)
    assert not to_tell(Code.DNS_WRONG_SERVER, problem(Code.DNS_WRONG_SERVER), lapsed=False, ended=SEEN_IN_DNS)
    assert to_tell(Code.SERVER_UNREACHABLE, problem(Code.DNS_WRONG_SERVER), lapsed=False)
    assert to_tell(Code.AUTO_RENEW_MISSING, problem(Code.DNS_WRONG_SERVER), lapsed=False, by_a_look=True)


def test_what_blocks_less_or_the_same_does_not_take_its_place() -> None:
    assert not to_tell(Code.DNS_WRONG_SERVER, problem(Code.AUTO_RENEW_MISSING), lapsed=False)
    assert not to_tell(Code.DNS_WRONG_SERVER, problem(Code.DNS_NOT_RESOLVING), lapsed=False)


def test_what_comes_after_one_that_is_over_is_told_whatever_it_blocks() -> None:
    assert to_tell(Code.DNS_WRONG_SERVER, problem(Code.DNS_NOT_RESOLVING), lapsed=False, ended=SEEN_IN_DNS)
    assert to_tell(Code.NOT_SERVED, problem(Code.NGINX_RELOAD_FAILED), lapsed=False, ended=SEEN_ON_DISK)
    assert to_tell(Code.DNS_WRONG_SERVER, problem(Code.AUTO_RENEW_MISSING), lapsed=False, ended=SEEN_IN_DNS)


def test_look_does_not_take_the_place_of_what_only_a_job_finds() -> None:
    assert not to_tell(Code.DISK_FULL, problem(Code.DNS_WRONG_SERVER), lapsed=False, by_a_look=True)
    assert to_tell(Code.NOT_SERVED, problem(Code.DNS_WRONG_SERVER), lapsed=False, by_a_look=True)
    assert to_tell(Code.DISK_FULL, problem(Code.DNS_WRONG_SERVER), lapsed=False)


@pytest.mark.parametrize(
    "standing",
    list(
        permutations(
            (Code.SERVER_UNREACHABLE, Code.DNS_WRONG_SERVER, Code.DNS_NOT_RESOLVING, Code.AUTO_RENEW_FAILING)
        )
    ),
)
def test_causes_that_stand_together_are_not_told_in_turn(standing: tuple[Code, ...]) -> None:
    told, news = None, 0
    for _ in range(10):
        for one in standing:
            found = problem(one, set(standing) - {one})
            if to_tell(told, found, lapsed=False, ended=over_for_a_job(found)):
                told, news = one, news + 1
    assert told in SEEN_IN_DNS
    assert news <= 3  # each tells of something that blocks more


def test_job_tells_the_next_cause_when_it_does_not_find_the_told_one_any_more() -> None:
    mended = problem(Code.NGINX_CONFIG_BROKEN, ())
    assert to_tell(Code.DNS_WRONG_SERVER, mended, lapsed=False, ended=over_for_a_job(mended))
    both = problem(Code.NGINX_CONFIG_BROKEN, (Code.DNS_WRONG_SERVER,))
    assert not to_tell(Code.DNS_WRONG_SERVER, both, lapsed=False, ended=over_for_a_job(both))


@pytest.mark.parametrize("found", [Code.SERVER_UNREACHABLE, Code.INTERNAL])
def test_job_that_has_not_got_as_far_as_looking_ends_nothing(found: Code) -> None:
    assert Code.DNS_WRONG_SERVER not in over_for_a_job(problem(found))
    assert Code.PORT_80_BLOCKED not in over_for_a_job(problem(Code.TOO_MANY_REQUESTS, ()))


def test_server_that_lets_us_in_no_more_for_another_reason_is_told_again() -> None:
    refused = problem(Code.SSH_AUTH_FAILED)
    assert to_tell(Code.SERVER_UNREACHABLE, refused, lapsed=False, ended=over_for_a_job(refused))


def test_what_time_mends_is_no_risk_before_the_certificate_has_lapsed() -> None:
    assert not to_tell(None, problem(Code.TOO_MANY_REQUESTS), lapsed=False)
    assert to_tell(None, problem(Code.TOO_MANY_REQUESTS), lapsed=True)
