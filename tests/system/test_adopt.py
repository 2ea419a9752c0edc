"""Adoption: what an existing certbot installation has becomes a site's certificate, and nothing is issued anew."""

import json
import subprocess

from deploy.lab.lab import Lab
from tests.support.installation import (
    CERTPILOT,
    Installation,
    certbot_by_hand,
    new_site,
    orders_of,
    served,
)


def test_certificate_of_an_existing_certbot_is_taken_over_and_watched_from_then_on(
    lab: Lab, certpilot: Installation
) -> None:
    ours, strange = new_site(lab, point=False), new_site(lab)
    certpilot.issue(ours)
    certpilot.wait_until_waiting(ours, "DNS_NOT_RESOLVING")
    cancel = [CERTPILOT, "jobs", "cancel", str(certpilot.view(ours)["job_id"])]
    subprocess.run(cancel, env=certpilot.environment(), check=True, capture_output=True, timeout=30)
    lab.point(ours.domain, to=ours.server)
    for site in (ours, strange):
        certbot_by_hand(lab, site.server, "run", "--nginx", "--redirect", "-d", site.domain)
    by_hand = served(lab, ours.server, ours.domain)
    told = certpilot.sequence(ours)

    done = subprocess.run(
        [CERTPILOT, "server", "adopt", ours.server.host, "--json"],
        env=certpilot.environment(), check=True, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    found = {row["lineage"]: row for row in json.loads(done.stdout)}

    assert (found[ours.domain]["site_id"], found[ours.domain]["adopted"]) == (ours.site_id, True)
    assert found[ours.domain]["authenticator"] == "nginx"
    assert (found[strange.domain]["site_id"], found[strange.domain]["adopted"]) == (None, False)
    certpilot.wait_for_event(ours, "active", after=told)
    view = certpilot.view(ours)
    assert view["ssl_expiry"] == by_hand.not_valid_after_utc
    assert view["renewal_due_at"] is not None
    assert view["next_check_at"] is not None
    assert served(lab, ours.server, ours.domain).serial_number == by_hand.serial_number
    assert len(orders_of(lab, ours)) == 1  # the one by hand

    again = subprocess.run(
        [CERTPILOT, "server", "adopt", ours.server.host],
        env=certpilot.environment(), check=True, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert "it is the site's already" in " ".join(again.stdout.split())
