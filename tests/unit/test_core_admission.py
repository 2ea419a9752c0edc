"""DESIGN A.1, row by row: what a command does to a site that already has something."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.catalogue import CATALOGUE
from contracts.codes import Code, Policy
from workers.core.deciding.admission import Admitted, Joined, Rejected, Request, admit
from workers.core.model import Certificate, JobId, JobKind, JobState, LiveJob, Server, Site, SslStatus

NOW = datetime(2026, 11, 24, 10, tzinfo=UTC)
DOMAIN, WWW, SHOP = "example.com", "www.example.com", "shop.example.com"
SERVER = Server("203.0.113.7", host_key="ssh-ed25519 AAAA")
OTHER_SERVER = Server("203.0.113.8")
JOB = JobId("11111111-1111-4111-8111-111111111111")
LATER = NOW + timedelta(hours=5)
ISSUE, RENEW = JobKind.ISSUE, JobKind.RENEW
SAME = Request(ISSUE, "site_1", DOMAIN, (WWW,), SERVER)
RENEW_BARE = Request(RENEW, "site_1")


def _certificate(age_days: float, *names: str, lifetime_days: float = 90) -> Certificate:
    start = NOW - timedelta(days=age_days)
    return Certificate("0a1b", tuple(sorted(names)), "R11", start, start + timedelta(days=lifetime_days))


FRESH = _certificate(10, DOMAIN, WWW)
IN_WINDOW = _certificate(61, DOMAIN, WWW)
OUT_OF_DATE = _certificate(91, DOMAIN, WWW)


def _site(
    status: SslStatus = SslStatus.NONE,
    certificate: Certificate | None = None,
    job: LiveJob | None = None,
    *,
    aliases: tuple[str, ...] = (WWW,),
) -> Site:
    return Site(
        "site_1", DOMAIN, aliases, SERVER, status, certificate, SERVER.key if certificate else None,
        ever_issued=certificate is not None, job=job,
    )  # fmt: skip


def _job(state: JobState, waits_on: Code | None = None, retry_at: datetime | None = None) -> LiveJob:
    return LiveJob(JOB, state, DOMAIN, (DOMAIN, WWW), SERVER.key, waits_on, retry_at)


ACTIVE = _site(SslStatus.ACTIVE, FRESH)
OTHER_REQUESTS = [
    Request(ISSUE, "site_1", DOMAIN, (WWW, SHOP), SERVER),
    Request(ISSUE, "site_1", DOMAIN, (), SERVER),
    Request(ISSUE, "site_1", "other.example.org", (), SERVER),
    Request(ISSUE, "site_1", DOMAIN, (WWW,), OTHER_SERVER),
    Request(ISSUE, "site_1", DOMAIN, (WWW,), Server("203.0.113.7", 2222)),
]


def _admitted(decision: Admitted | Joined | Rejected) -> Admitted:
    assert isinstance(decision, Admitted), decision
    return decision


def _rejected(decision: Admitted | Joined | Rejected) -> tuple[Code, datetime | None]:
    assert isinstance(decision, Rejected), decision
    return decision.code, decision.retry_at


# --- no valid certificate and no live job


@pytest.mark.parametrize(
    "site", [None, _site(), _site(SslStatus.EXPIRED, OUT_OF_DATE), _site(SslStatus.ACTIVE, OUT_OF_DATE)]
)
@pytest.mark.parametrize("request_", [SAME, *OTHER_REQUESTS])
def test_without_a_valid_certificate_or_a_live_job_there_is_a_new_job(
    site: Site | None, request_: Request
) -> None:
    """The fourth site is still called active; notAfter decides, not the word."""
    admitted = _admitted(admit(request_, site, NOW))
    assert admitted.status is SslStatus.PENDING
    assert (admitted.domain, admitted.names[0]) == (request_.domain, request_.domain)
    assert (admitted.server, admitted.force, admitted.supersedes) == (request_.server, False, None)


@pytest.mark.parametrize(
    "state", [JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.SUPERSEDED]
)
def test_a_job_that_has_ended_stays_what_it_was(state: JobState) -> None:
    assert _admitted(admit(SAME, _site(job=_job(state)), NOW)).supersedes is None


@pytest.mark.parametrize("request_", [SAME, *OTHER_REQUESTS])
def test_a_dead_job_is_superseded_by_the_new_one(request_: Request) -> None:
    assert _admitted(admit(request_, _site(job=_job(JobState.DEAD)), NOW)).supersedes == JOB


def test_a_dead_renewal_of_a_valid_certificate_is_superseded_only_by_what_is_accepted() -> None:
    site = _site(SslStatus.ACTIVE, IN_WINDOW, _job(JobState.DEAD))
    assert _rejected(admit(SAME, site, NOW)) == (Code.ALREADY_ACTIVE, None)
    admitted = _admitted(admit(RENEW_BARE, site, NOW))
    assert (admitted.supersedes, admitted.status) == (JOB, SslStatus.ACTIVE)


# --- a job waits

WAITS_FOR_SOMEBODY = sorted(
    code for code, row in CATALOGUE.items()
    if row.policy in {Policy.RECHECK, Policy.ADMIN, Policy.BACK_OFF, Policy.SNOOZE}
)  # fmt: skip


@pytest.mark.parametrize("waits_on", [*WAITS_FOR_SOMEBODY, None])
def test_the_same_request_joins_a_job_that_waits_for_owner_admin_server_or_outage(
    waits_on: Code | None,
) -> None:
    site = _site(SslStatus.PENDING, None, _job(JobState.WAITING, waits_on, LATER))
    assert admit(SAME, site, NOW) == Joined(JOB, SERVER)


def test_a_job_on_a_paused_server_is_joined_even_while_it_is_queued() -> None:
    job = replace(_job(JobState.QUEUED), paused=True)
    assert admit(SAME, _site(SslStatus.PENDING, None, job), NOW) == Joined(JOB, SERVER)
    running = replace(_job(JobState.RUNNING), paused=True)
    assert _rejected(admit(SAME, _site(SslStatus.PENDING, None, running), NOW))[0] is Code.ALREADY_PENDING


def test_same_ignores_the_order_of_aliases_the_user_and_the_host_key() -> None:
    job = LiveJob(
        JOB, JobState.WAITING, DOMAIN, (DOMAIN, SHOP, WWW), SERVER.key, Code.HOST_KEY_MISMATCH, LATER
    )
    site = _site(SslStatus.PENDING, None, job, aliases=(SHOP, WWW))
    corrected = Server("203.0.113.7", username="deploy", host_key="ssh-ed25519 BBBB")
    assert admit(Request(ISSUE, "site_1", DOMAIN, (WWW, SHOP), corrected), site, NOW) == Joined(
        JOB, corrected
    )


@pytest.mark.parametrize("request_", OTHER_REQUESTS)
@pytest.mark.parametrize(
    "waits_on", [Code.DNS_WRONG_SERVER, Code.CERTBOT_MISSING, Code.TOO_MANY_REQUESTS, None]
)
def test_other_names_or_server_supersede_a_waiting_job(request_: Request, waits_on: Code | None) -> None:
    site = _site(SslStatus.PENDING, None, _job(JobState.WAITING, waits_on, LATER))
    admitted = _admitted(admit(request_, site, NOW))
    assert (admitted.supersedes, admitted.status) == (JOB, SslStatus.PENDING)


def test_a_job_that_waits_on_a_ca_limit_refuses_the_same_request_with_its_time() -> None:
    site = _site(SslStatus.PENDING, None, _job(JobState.WAITING, Code.TOO_MANY_REQUESTS, LATER))
    decision = admit(SAME, site, NOW)
    assert decision == Rejected(
        Code.ALREADY_PENDING,
        "A request for example.com waits for a limit of the certificate authority."
        " It goes on by itself at 2026-11-24 15:00 UTC.",
        LATER,
    )


@pytest.mark.parametrize("state", [JobState.QUEUED, JobState.RUNNING])
@pytest.mark.parametrize("request_", [SAME, *OTHER_REQUESTS])
def test_a_job_that_is_queued_or_running_refuses_every_request(state: JobState, request_: Request) -> None:
    site = _site(SslStatus.PENDING, None, _job(state))
    assert _rejected(admit(request_, site, NOW)) == (Code.ALREADY_PENDING, None)


def test_a_live_job_comes_before_the_certificate() -> None:
    """A renewal of an active site waits for the owner: Issue makes it check, and while it runs the answer is pending."""
    waiting = _site(SslStatus.ACTIVE, FRESH, _job(JobState.WAITING, Code.DNS_WRONG_SERVER, LATER))
    assert admit(SAME, waiting, NOW) == Joined(JOB, SERVER)
    running = _site(SslStatus.ACTIVE, FRESH, _job(JobState.RUNNING))
    assert _rejected(admit(SAME, running, NOW))[0] is Code.ALREADY_PENDING


def test_a_command_without_the_bad_alias_cures_a_waiting_renewal_and_still_renews() -> None:
    """B.6; the old certificate has the remaining names, so without `force` the new job would be content with it."""
    site = _site(SslStatus.ACTIVE, IN_WINDOW, _job(JobState.WAITING, Code.DNS_NOT_RESOLVING, LATER))
    admitted = _admitted(admit(Request(ISSUE, "site_1", DOMAIN, (), SERVER), site, NOW))
    assert (admitted.supersedes, admitted.force, admitted.status) == (JOB, True, SslStatus.ACTIVE)


# --- active, certificate valid


@pytest.mark.parametrize("certificate", [FRESH, IN_WINDOW])
@pytest.mark.parametrize("aliases", [(WWW,), ()])
def test_issue_of_what_a_valid_certificate_has_is_already_active(
    certificate: Certificate, aliases: tuple[str, ...]
) -> None:
    """The same names or a subset of them, in the renewal window or not, without a time."""
    request = Request(ISSUE, "site_1", DOMAIN, aliases, SERVER)
    site = _site(SslStatus.ACTIVE, certificate)
    assert _rejected(admit(request, site, NOW)) == (Code.ALREADY_ACTIVE, None)


def test_the_refusal_says_until_when_the_certificate_is_valid() -> None:
    decision = admit(SAME, ACTIVE, NOW)
    assert isinstance(decision, Rejected)
    assert (
        decision.message
        == "example.com already has a certificate for these names, valid until 2027-02-12 10:00 UTC."
    )


@pytest.mark.parametrize("kind", [ISSUE, RENEW])
@pytest.mark.parametrize(
    ("domain", "server"),
    [("other.example.org", SERVER), (DOMAIN, OTHER_SERVER), ("other.example.org", OTHER_SERVER)],
)
def test_another_domain_or_server_makes_an_active_site_pending(
    kind: JobKind, domain: str, server: Server
) -> None:
    admitted = _admitted(admit(Request(kind, "site_1", domain, (), server), ACTIVE, NOW))
    assert (admitted.status, admitted.force, admitted.domain) == (SslStatus.PENDING, False, domain)


@pytest.mark.parametrize("kind", [ISSUE, RENEW])
def test_another_alias_leaves_an_active_site_active(kind: JobKind) -> None:
    admitted = _admitted(admit(Request(kind, "site_1", DOMAIN, (WWW, SHOP), SERVER), ACTIVE, NOW))
    assert (admitted.status, admitted.force) == (SslStatus.ACTIVE, False)
    assert admitted.names == (DOMAIN, WWW, SHOP)


def test_renew_with_fewer_names_is_accepted_stays_active_and_makes_a_new_certificate() -> None:
    admitted = _admitted(admit(Request(RENEW, "site_1", DOMAIN, (SHOP,), SERVER), _site(
        SslStatus.ACTIVE, _certificate(10, DOMAIN, WWW, SHOP), aliases=(WWW, SHOP)), NOW))  # fmt: skip
    assert (admitted.status, admitted.force, admitted.serial_known) == (SslStatus.ACTIVE, True, "0a1b")


def test_renew_before_the_window_is_refused_with_the_start_of_the_window() -> None:
    decision = admit(RENEW_BARE, ACTIVE, NOW)
    opens_at = FRESH.not_after - timedelta(days=30)
    assert _rejected(decision) == (Code.ALREADY_ACTIVE, opens_at)
    assert isinstance(decision, Rejected)
    assert decision.message.endswith("It can be renewed from 2027-01-13 10:00 UTC.")
    assert _admitted(admit(RENEW_BARE, ACTIVE, opens_at))


@pytest.mark.parametrize(("certificate", "force"), [(IN_WINDOW, False), (IN_WINDOW, True), (FRESH, True)])
def test_renew_inside_the_window_or_by_force_is_accepted_and_stays_active(
    certificate: Certificate, force: bool
) -> None:
    admitted = _admitted(admit(replace(RENEW_BARE, force=force), _site(SslStatus.ACTIVE, certificate), NOW))
    assert (admitted.status, admitted.names, admitted.server) == (SslStatus.ACTIVE, (DOMAIN, WWW), SERVER)
    assert (admitted.force, admitted.serial_known) == (True, "0a1b")


def test_renew_of_names_that_an_earlier_job_failed_to_add_is_accepted_before_the_window() -> None:
    site = _site(SslStatus.ACTIVE, FRESH, aliases=(WWW, SHOP))
    assert _admitted(admit(RENEW_BARE, site, NOW)).names == (DOMAIN, WWW, SHOP)


def test_a_new_domain_that_the_certificate_has_already_is_no_move() -> None:
    swapped = Request(ISSUE, "site_1", WWW, (DOMAIN,), SERVER)
    assert _rejected(admit(swapped, ACTIVE, NOW))[0] is Code.ALREADY_ACTIVE
    admitted = _admitted(admit(replace(swapped, kind=RENEW), ACTIVE, NOW))
    assert (admitted.status, admitted.domain) == (SslStatus.ACTIVE, WWW)


def test_renew_of_an_expired_certificate_needs_no_window_and_no_force() -> None:
    admitted = _admitted(admit(RENEW_BARE, _site(SslStatus.EXPIRED, OUT_OF_DATE), NOW))
    assert (admitted.status, admitted.force) == (SslStatus.PENDING, False)


def test_a_site_that_was_moved_and_moved_back_gets_a_job_although_its_old_certificate_is_valid() -> None:
    """The move failed, the word is `none`: ALREADY_ACTIVE would leave it so for ever."""
    admitted = _admitted(admit(SAME, _site(SslStatus.NONE, FRESH), NOW))
    assert admitted.status is SslStatus.PENDING


def test_the_window_goes_by_the_schedules_clock_and_validity_by_real_time() -> None:
    """DESIGN B.10: a test that moves the clock a hundred days ahead has not made the certificate expire."""
    ahead = NOW + timedelta(days=100)
    assert _admitted(admit(RENEW_BARE, ACTIVE, ahead, real_now=NOW)).status is SslStatus.ACTIVE
    assert _rejected(admit(SAME, ACTIVE, ahead, real_now=NOW)) == (Code.ALREADY_ACTIVE, None)


# --- what comes before the table


@pytest.mark.parametrize(
    "site", [None, _site(), replace(_site(), domain=None, server=None), _site(job=_job(JobState.RUNNING))]
)
@pytest.mark.parametrize(
    "request_", [RENEW_BARE, replace(RENEW_BARE, domain=DOMAIN, server=SERVER, force=True)]
)
def test_renew_of_a_site_never_issued_is_refused_before_anything_else(
    site: Site | None, request_: Request
) -> None:
    assert _rejected(admit(request_, site, NOW)) == (Code.NOT_ISSUED, None)


@pytest.mark.parametrize(
    ("request_", "domain", "names", "server"),
    [
        (Request(RENEW, "site_1"), DOMAIN, (DOMAIN, WWW), SERVER),
        (Request(RENEW, "site_1", aliases=(SHOP,)), DOMAIN, (DOMAIN, SHOP), SERVER),
        (Request(RENEW, "site_1", aliases=()), DOMAIN, (DOMAIN,), SERVER),
        (Request(RENEW, "site_1", domain=SHOP), SHOP, (SHOP, WWW), SERVER),
        (Request(RENEW, "site_1", domain=WWW), WWW, (WWW,), SERVER),
        (Request(RENEW, "site_1", server=OTHER_SERVER), DOMAIN, (DOMAIN, WWW), OTHER_SERVER),
    ],
)
def test_renew_takes_what_is_stored_for_whatever_it_leaves_out(
    request_: Request, domain: str, names: Sequence[str], server: Server
) -> None:
    admitted = _admitted(admit(request_, _site(SslStatus.EXPIRED, OUT_OF_DATE), NOW))
    assert (admitted.domain, admitted.names, admitted.server) == (domain, names, server)


def test_the_newest_command_says_how_the_server_is_reached() -> None:
    unpinned = Server("203.0.113.7", username="deploy", public_addresses=("198.51.100.1",))
    admitted = _admitted(admit(replace(RENEW_BARE, server=unpinned), _site(SslStatus.ACTIVE, IN_WINDOW), NOW))
    assert admitted.server == unpinned
    joined = admit(
        RENEW_BARE, _site(SslStatus.ACTIVE, IN_WINDOW, _job(JobState.WAITING, Code.SSH_AUTH_FAILED)), NOW
    )
    assert joined == Joined(JOB, None)


def test_issue_without_aliases_has_none_whatever_is_stored() -> None:
    admitted = _admitted(admit(Request(ISSUE, "site_1", DOMAIN, None, SERVER), _site(), NOW))
    assert admitted.names == (DOMAIN,)


def test_what_the_contracts_refuse_is_refused_here_too() -> None:
    assert _rejected(admit(Request(ISSUE, "site_1", None, (), SERVER), ACTIVE, NOW))[0] is Code.NO_DOMAIN
    assert _rejected(admit(Request(ISSUE, "site_1", DOMAIN), ACTIVE, NOW))[0] is Code.INVALID_REQUEST


# --- properties

names = st.sampled_from([DOMAIN, WWW, SHOP, "other.example.org"])
servers = st.sampled_from([SERVER, OTHER_SERVER, replace(SERVER, username="deploy")])
name_lists = st.lists(names, max_size=3, unique=True).map(tuple)
requests = st.one_of(
    st.builds(Request, kind=st.just(ISSUE), site_id=st.just("site_1"), domain=names, aliases=name_lists, server=servers),
    st.builds(
        Request, kind=st.just(RENEW), site_id=st.just("site_1"), domain=st.none() | names,
        aliases=st.none() | name_lists, server=st.none() | servers, force=st.booleans(),
    ),
)  # fmt: skip
certificates = st.builds(
    lambda age, some: _certificate(age, *some),
    st.floats(0, 120),
    st.lists(names, min_size=1, max_size=3, unique=True),
)
jobs = st.builds(
    lambda state, some, server, code: LiveJob(
        JOB, state, some[0], tuple(some), server.key, code if state is JobState.WAITING else None, LATER
    ),
    st.sampled_from(JobState), st.lists(names, min_size=1, max_size=3, unique=True), servers,
    st.sampled_from([None, *WAITS_FOR_SOMEBODY, Code.TOO_MANY_REQUESTS]),
)  # fmt: skip
sites = st.builds(
    Site, site_id=st.just("site_1"), domain=names, aliases=name_lists, server=servers,
    ssl_status=st.sampled_from(SslStatus), certificate=st.none() | certificates,
    certificate_server_key=servers.map(lambda server: server.key), ever_issued=st.booleans(), job=st.none() | jobs,
)  # fmt: skip


@settings(deadline=None, max_examples=1500)
@given(request=requests, site=st.none() | sites)
def test_whatever_comes_the_answer_is_consistent(request: Request, site: Site | None) -> None:
    decision = admit(request, site, NOW)
    live = (
        site is not None
        and site.job is not None
        and site.job.state in {JobState.QUEUED, JobState.RUNNING, JobState.WAITING}
    )
    if isinstance(decision, Admitted):
        assert decision.names[0] == decision.domain
        assert len(set(decision.names)) == len(decision.names)
        assert decision.status in {SslStatus.PENDING, SslStatus.ACTIVE}
        if decision.status is SslStatus.ACTIVE:
            assert site is not None
            assert site.ssl_status is SslStatus.ACTIVE
            assert site.certificate is not None
            assert site.certificate.not_after > NOW
        assert not decision.force or decision.serial_known is not None
        if live:  # never two live jobs for one site
            assert site is not None
            assert site.job is not None
            assert site.job.state is JobState.WAITING
            assert decision.supersedes == JOB
    elif isinstance(decision, Joined):
        assert live
    else:
        assert CATALOGUE[decision.code].policy is Policy.REJECT
        assert decision.message
        assert decision.retry_at is None or decision.retry_at > NOW
