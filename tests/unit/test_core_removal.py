"""What a removal does to a site that may already have something."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from contracts.codes import Code
from workers.core.deciding.admission import Admitted, Rejected, Request, admit
from workers.core.deciding.removal import (
    LeftLineage,
    RemovalAdmitted,
    RemovedAtOnce,
    admit_removal,
    needed_no_more,
)
from workers.core.model import (
    Certificate,
    JobId,
    JobKind,
    JobState,
    LiveJob,
    Server,
    Site,
    SslStatus,
)

NOW = datetime(2026, 11, 25, tzinfo=UTC)
SERVER = Server("203.0.113.7")
CERTIFICATE = Certificate(
    "0a", ("a.example", "b.example"), "CA", NOW - timedelta(days=1), NOW + timedelta(days=89)
)
ISSUED = Site(
    "site", "a.example", ("b.example",), SERVER, SslStatus.ACTIVE, CERTIFICATE, SERVER.key, ever_issued=True, job=None
)  # fmt: skip
NOTHING = replace(ISSUED, ssl_status=SslStatus.NONE, certificate=None, certificate_server_key=None)


def job(state: JobState, **changes: object) -> LiveJob:
    found = LiveJob(JobId("1"), state, "a.example", ("a.example", "b.example"), SERVER.key)
    return replace(found, **changes)  # type: ignore[arg-type]


def test_site_with_a_certificate_gets_a_job_for_all_its_names() -> None:
    assert admit_removal(ISSUED) == RemovalAdmitted(("a.example", "b.example"), SERVER)


def test_expired_certificate_is_removed_like_any_other() -> None:
    assert isinstance(admit_removal(replace(ISSUED, ssl_status=SslStatus.EXPIRED)), RemovalAdmitted)


@pytest.mark.parametrize(
    "site",
    [
        NOTHING,
        replace(NOTHING, job=job(JobState.FAILED)),
        replace(NOTHING, job=job(JobState.CANCELLED, attempt=3)),
    ],
)
def test_nothing_issued_and_nothing_waiting_is_not_issued(site: Site) -> None:
    answer = admit_removal(site)
    assert isinstance(answer, Rejected)
    assert answer.code is Code.NOT_ISSUED


@pytest.mark.parametrize("state", [JobState.QUEUED, JobState.RUNNING])
@pytest.mark.parametrize("site", [ISSUED, NOTHING])
def test_work_under_way_is_already_pending(site: Site, state: JobState) -> None:
    answer = admit_removal(replace(site, job=job(state)))
    assert isinstance(answer, Rejected)
    assert answer.code is Code.ALREADY_PENDING


def test_waiting_job_that_never_reached_the_server_is_all_there_is_to_remove() -> None:
    waiting = job(JobState.WAITING, waits_on=Code.DNS_NOT_RESOLVING)
    assert admit_removal(replace(NOTHING, job=waiting)) == RemovedAtOnce(JobId("1"))


@pytest.mark.parametrize(
    ("site", "waiting"),
    [
        (NOTHING, job(JobState.WAITING, attempt=1)),
        (ISSUED, job(JobState.WAITING)),
        (ISSUED, job(JobState.QUEUED, paused=True)),
        (NOTHING, job(JobState.WAITING, kind=JobKind.REMOVE)),
    ],
)
def test_waiting_job_is_cancelled_where_its_certificate_may_be_on_the_server(
    site: Site, waiting: LiveJob
) -> None:
    answer = admit_removal(replace(site, job=waiting))
    assert isinstance(answer, RemovalAdmitted)
    assert answer.cancels == JobId("1")


def test_dead_job_is_superseded_so_that_its_letter_brings_nothing_back() -> None:
    answer = admit_removal(replace(ISSUED, job=job(JobState.DEAD)))
    assert isinstance(answer, RemovalAdmitted)
    assert (answer.supersedes, answer.cancels) == (JobId("1"), None)


HERE = LeftLineage(("a.example", "b.example"), SERVER)
OLD_SERVER = LeftLineage(("a.example",), Server("198.51.100.9"))
OLD_DOMAIN = LeftLineage(("old.example", "a.example"), SERVER)


def test_what_the_site_has_left_elsewhere_is_removed_too() -> None:
    answer = admit_removal(ISSUED, [OLD_SERVER, HERE, OLD_DOMAIN])
    assert answer == RemovalAdmitted(HERE.names, SERVER, also=(OLD_SERVER, OLD_DOMAIN))


@pytest.mark.parametrize("waiting", [None, job(JobState.WAITING), job(JobState.FAILED)])
@pytest.mark.parametrize("left", [OLD_SERVER, OLD_DOMAIN])
def test_site_that_has_nothing_where_it_is_now_loses_what_it_has_elsewhere(
    left: LeftLineage, waiting: LiveJob | None
) -> None:
    answer = admit_removal(replace(NOTHING, job=waiting), [left])
    assert isinstance(answer, RemovalAdmitted)
    assert (answer.names, answer.server, answer.also) == (left.names, left.server, ())


def test_attempt_that_may_have_left_something_where_the_site_is_now_is_looked_after_first() -> None:
    answer = admit_removal(replace(NOTHING, job=job(JobState.WAITING, attempt=1)), [OLD_SERVER])
    assert answer == RemovalAdmitted(HERE.names, SERVER, cancels=JobId("1"), also=(OLD_SERVER,))


def test_new_certificate_makes_needless_what_lies_elsewhere_and_what_it_replaces() -> None:
    left = [HERE, OLD_SERVER, OLD_DOMAIN]
    assert needed_no_more(left, CERTIFICATE, "a.example", SERVER) == [OLD_SERVER]
    with_the_old_name = replace(CERTIFICATE, names=("a.example", "old.example"))
    assert needed_no_more(left, with_the_old_name, "a.example", SERVER) == [OLD_SERVER, OLD_DOMAIN]


@pytest.mark.parametrize("kind", [JobKind.ISSUE, JobKind.RENEW])
def test_request_for_a_certificate_takes_the_place_of_a_removal_that_waits(kind: JobKind) -> None:
    site = replace(ISSUED, job=job(JobState.WAITING, kind=JobKind.REMOVE, waits_on=Code.SERVER_UNREACHABLE))
    answer = admit(Request(kind, "site", "a.example", ("b.example",), SERVER), site, NOW)
    assert not isinstance(answer, Rejected)
    assert getattr(answer, "supersedes", None) == JobId("1")


@pytest.mark.parametrize("state", [JobState.DEAD, JobState.CANCELLED, JobState.FAILED])
def test_issue_after_a_removal_that_came_to_nothing_takes_the_site_up_again(state: JobState) -> None:
    site = replace(ISSUED, job=job(state, kind=JobKind.REMOVE))
    answer = admit(Request(JobKind.ISSUE, "site", "a.example", ("b.example",), SERVER), site, NOW)
    assert isinstance(answer, Admitted)
    assert not answer.force
    early = admit(Request(JobKind.RENEW, "site"), site, NOW)
    assert isinstance(early, Rejected)
