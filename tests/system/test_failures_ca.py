"""What the CA says no to: its limits and outages are waited for, what a person must see to ends at once."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from contracts.codes import Code
from deploy.lab.acme_messages import Reply
from deploy.lab.ca_limits import LETS_ENCRYPT, CaLimits, LimitName
from deploy.lab.lab import Lab
from deploy.lab.postgres import PostgresServer
from deploy.lab.rabbitmq import RabbitNode
from tests.conftest import TEMPLATE
from tests.support.failures import (
    Case,
    Step,
    Story,
    Trouble,
    all_roles,
    borrowed_servers,
    ca_clock_put_back,
    check_ended,
    check_mended,
    check_told,
    go_through,
    nothing,
)
from tests.support.installation import certbot_by_hand, certbot_logs, installed
from workers.core.model import JobState

pytestmark = pytest.mark.timeout(600)

ACCOUNTS = "/etc/letsencrypt/accounts"
CERTIFICATES_A_WEEK = LETS_ENCRYPT[LimitName.CERTIFICATES_PER_SET]


def had_all_certificates_of_the_week(case: Case) -> None:
    ca = case.lab.ca.production
    for _ in range(CERTIFICATES_A_WEEK.burst):
        ca.limits.issued([case.domain], ca.now())


def order_is_answered(reply: Reply) -> Step:
    return lambda case: case.lab.ca.production.answer(reply, names=[case.domain])


def registration_is_answered(reply: Reply) -> Step:
    return lambda case: case.lab.ca.production.answer(reply, endpoint="new-account", client=case.server.host)


def register(case: Case) -> str:
    """The server's account at the CA, made by hand."""
    certbot_by_hand(case.lab, case.server, "register")
    text = case.server.run(["sh", "-c", f"cat $(find {ACCOUNTS} -name regr.json)"]).stdout
    found = re.search(r'"uri": *"([^"]+)"', text)
    assert found, text
    return found[1]


def paused(case: Case) -> None:
    case.kept["account"] = register(case)
    case.lab.ca.production.limits.pause(case.kept["account"], case.domain)


def account_that_the_ca_does_not_know(case: Case) -> None:
    case.kept["account"] = register(case)
    case.server.run(
        ["sh", "-c", f"sed -i 's|my-account/[^\"]*|my-account/0|' $(find {ACCOUNTS} -name regr.json)"]
    )


TROUBLES = (
    Trouble(
        "the exact set had all its certificates of the week", Code.TOO_MANY_REQUESTS,
        had_all_certificates_of_the_week, nothing,
        attempts=1,
        # One comes back after a fifth of the week; boulder adds up to 3 %, we up to a minute.
        waits=(timedelta(hours=33.5), timedelta(hours=33.6 * 1.03, minutes=1)),
    ),
    Trouble(
        "the CA is overloaded (503)", Code.CA_UNAVAILABLE, order_is_answered(Reply.service_busy()), nothing,
        attempts=1,
    ),
    Trouble(
        "a part of the CA fails (500)", Code.CA_UNAVAILABLE, order_is_answered(Reply.server_internal()), nothing,
        attempts=1,
    ),
    Trouble(
        "the CA has paused the name for our account", Code.ACCOUNT_PAUSED,
        paused, lambda case: case.lab.ca.production.limits.unpause(case.kept["account"]),
        says=("{domain}", "Confirm at https://portal.lab.test/sfe/v1/unpause?jwt=bGFi"),
        attempts=1, ends=JobState.DEAD, own_server=True,
    ),
    Trouble(
        "the CA does not know the server's account", Code.ACCOUNT_INVALID,
        account_that_the_ca_does_not_know, lambda case: case.server.run(["rm", "-r", ACCOUNTS]),
        attempts=1, ends=JobState.DEAD, own_server=True,
    ),
    Trouble(
        "the CA does not accept the contact", Code.ACCOUNT_CONTACT_INVALID,
        registration_is_answered(
            Reply.problem(400, "invalidContact", 'Error validating contact(s) :: contact email has forbidden domain "example.com"')
        ), nothing,
        attempts=1, ends=JobState.DEAD, own_server=True,
    ),
    Trouble(
        "the CA wants an external account binding", Code.ACCOUNT_EAB_REQUIRED,
        registration_is_answered(
            Reply.problem(400, "externalAccountRequired", "Request for a new account lacks the external account binding")
        ), nothing,
        attempts=1, ends=JobState.DEAD, own_server=True,
    ),
    Trouble(
        "the CA's policy forbids the name", Code.REJECTED_BY_CA,
        order_is_answered(
            Reply.problem(
                400, "rejectedIdentifier",
                "The ACME server refuses to issue a certificate for this domain name, because it is forbidden by policy",
            )
        ), nothing,
        attempts=1, ends=JobState.FAILED,
    ),
)  # fmt: skip
WAITING = tuple(trouble for trouble in TROUBLES if trouble.ends is None)
ENDING = tuple(trouble for trouble in TROUBLES if trouble.ends)


@pytest.fixture(scope="module")
def stories(lab: Lab, postgres: PostgresServer, rabbit: RabbitNode, logs: Path) -> Iterator[dict[str, Story]]:
    ca = lab.ca.production
    before = ca.limits
    figures = {LimitName.CERTIFICATES_PER_SET: CERTIFICATES_A_WEEK}
    with (
        installed(lab, postgres, rabbit, template=TEMPLATE) as certpilot,
        borrowed_servers(lab) as servers,
        ca_clock_put_back(lab),
        all_roles(certpilot, logs / "roles.log"),
    ):
        ca.limits = CaLimits(figures, before.registered_domain)
        try:
            yield go_through(lab, certpilot, servers, TROUBLES)
        finally:
            ca.limits = before
            ca.answer_truly()


@pytest.mark.parametrize("trouble", WAITING, ids=str)
def test_what_only_the_ca_can_end_is_told_exactly_and_waited_for(
    stories: dict[str, Story], trouble: Trouble
) -> None:
    check_told(stories[trouble.name])


@pytest.mark.parametrize("trouble", ENDING, ids=str)
def test_what_no_wait_can_mend_ends_at_once_with_its_fix(stories: dict[str, Story], trouble: Trouble) -> None:
    check_ended(stories[trouble.name])


@pytest.mark.parametrize("trouble", TROUBLES, ids=str)
def test_site_becomes_active_once_the_ca_takes_the_order(stories: dict[str, Story], trouble: Trouble) -> None:
    check_mended(stories[trouble.name])


def test_refused_order_waits_until_the_cas_own_time_and_hardly_longer(
    lab: Lab, stories: dict[str, Story]
) -> None:
    story = stories[WAITING[0].name]
    refusal = next(seen for seen in lab.ca.production.refusals() if story.case.domain in seen.names)
    assert refusal.status == 429
    found = re.search(r"retry after (.*) UTC", refusal.detail)
    assert found, refusal.detail
    cas_time = datetime.fromisoformat(found[1]).replace(tzinfo=UTC)
    assert cas_time <= story.view["retry_at"] <= cas_time + timedelta(minutes=1)


def test_limit_is_read_from_the_log_where_certbots_console_hides_it(stories: dict[str, Story]) -> None:
    """Debian 12's certbot says AttributeError instead of the CA's words (FACTS-certbot 4.5)."""
    story = stories[WAITING[0].name]
    if story.case.server.run(["certbot", "--version"]).stdout.strip() == "certbot 2.1.0":
        assert "AttributeError: can't set attribute" in certbot_logs(story.case.server)
