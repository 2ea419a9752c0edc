"""`certpilot issue --wait` with every role, a real server and a real CA; nothing is simulated here."""

import pytest

from deploy.lab.lab import Lab
from tests.support.cli import Cli
from tests.support.installation import Installation, new_site

LAST_STEPS = ["done", "active"]


@pytest.fixture
def cli(certpilot: Installation) -> Cli:
    return Cli(**certpilot.environment())


def steps(lines: list[str]) -> list[str]:
    return [line[11:21].strip() for line in lines]


def test_issue_renew_and_their_rejections_are_followed_to_the_end(cli: Cli, lab: Lab) -> None:
    site = new_site(lab, aliases=1)
    issue = (
        "issue", "--site", site.site_id, "--domain", site.domain, "--alias", site.aliases[0], "--server",
        f"root@{site.server.host}", "--host-key", site.server.host_key, "--wait",
    )  # fmt: skip
    issued = cli(*issue)
    assert (issued.code, issued.err) == (0, ""), issued.out
    assert steps(issued.lines)[:3] == ["sent", "pending", "queued"]
    assert steps(issued.lines)[-2:] == LAST_STEPS
    assert {"connecting", "preflight", "requesting", "verifying"} <= set(steps(issued.lines))

    again = cli(*issue)
    assert (again.code, steps(again.lines)) == (1, ["sent", "rejected", "to do"])
    assert "ALREADY_ACTIVE" in again.out

    renewed = cli("renew", "--site", site.site_id, "--force", "--wait")
    assert (renewed.code, steps(renewed.lines)[-2:]) == (0, LAST_STEPS), renewed.out
    assert "pending" not in steps(renewed.lines)

    [row] = cli("status", site.site_id, "--json").json
    assert (row["ssl_status"], row["job_state"], row["error_code"]) == ("active", "succeeded", None)
    [newest, first] = cli("jobs", "list", "--site", site.site_id, "--json").json
    assert (newest["kind"], first["kind"]) == ("renew", "issue")
    shown = cli("jobs", "show", newest["job_id"], "--json").json
    assert [attempt["attempt"] for attempt in shown["attempts"]] == [1]


def test_name_without_an_address_is_waited_for_and_cancelled(cli: Cli, lab: Lab) -> None:
    site = new_site(lab, point=False)
    waited = cli(
        "issue", "--site", site.site_id, "--domain", site.domain, "--server", f"root@{site.server.host}", "--wait",
        "--timeout", "6",
    )  # fmt: skip
    assert (waited.code, steps(waited.lines)[-2:]) == (2, ["waiting", "to do"]), waited.out
    assert "DNS_NOT_RESOLVING" in waited.out
    assert "It waits (waiting: DNS_NOT_RESOLVING" in waited.err
    [job] = cli("jobs", "list", "--site", site.site_id, "--state", "waiting", "--json").json
    assert cli("jobs", "cancel", job["job_id"]).code == 0
    [row] = cli("status", site.site_id, "--json").json
    assert (row["ssl_status"], row["job_state"]) == ("none", "cancelled")
