"""Private keys stay where they are: the worker's in its file, a site's on its server; seen over one whole issue."""

import contextlib
import re
from pathlib import Path

from deploy.lab.lab import Lab
from tests.support.installation import CERTPILOT, ROLES, DemoSite, Installation, OwnQueue, new_site
from tests.support.secrets import all_files, everything_stored, watching_arguments


def secrets_of(lab: Lab, site: DemoSite) -> list[bytes]:
    """Lines of the keys that can only be theirs."""
    # The public half stands behind the secret number in both, and in every certificate.
    worker = lab.worker_key_file.read_text().splitlines()[2:-1]
    certificate = site.server.read(f"/etc/letsencrypt/live/{site.domain}/privkey.pem").splitlines()[1:3]
    account = site.server.run(["sh", "-c", "cat /etc/letsencrypt/accounts/*/*/*/private_key.json"]).stdout
    exponent = re.findall(r'"d": *"([^"]{20,})"', account)
    assert all((worker, certificate, exponent))
    return [line.encode() for line in (*worker, *certificate, *exponent)]


def test_no_private_key_is_in_a_log_an_event_a_table_or_an_argument_list(
    lab: Lab, installation: Installation, tmp_path: Path
) -> None:
    site = new_site(lab, aliases=1)
    events = OwnQueue(installation.rabbitmq_url)
    with contextlib.ExitStack() as stack:
        arguments = stack.enter_context(watching_arguments(site.server))
        for role in ROLES:
            stack.enter_context(
                installation.process(
                    CERTPILOT, "run", role, log=tmp_path / f"{role}.log", CERTPILOT_LOG_FORMAT="json"
                )
            )
        installation.issue(site)
        installation.wait_until_active(site)
        installation.renew(site, force=True)
        installation.wait_for_event(site, "done", after=installation.sequence(site))
        installation.settled_feed(site)
    places = [
        *((str(log), log.read_bytes()) for log in tmp_path.glob("*.log")),
        *(("event", body + repr(properties).encode()) for properties, body in events.read()),
        *(("arguments", one) for one in arguments),
        *everything_stored(installation),
        (
            "certpilot's folder on the server",
            all_files(site.server, "/var/lib/certpilot /var/log/certpilot"),
        ),
    ]
    # What is searched is there, and would show a key that was.
    assert {"event", "arguments", "table outbox", "table job_attempt"} <= {name for name, _ in places}
    assert any(site.domain.encode() in text for name, text in places if name == "arguments")
    secrets = [b"PRIVATE KEY", *secrets_of(lab, site)]
    secrets += [secret.hex().encode() for secret in secrets]
    assert [name for name, text in places if any(secret in text for secret in secrets)] == []


def test_certpilots_folders_on_a_server_are_roots_alone(lab: Lab, certpilot: Installation) -> None:
    site = new_site(lab)
    certpilot.issue(site)
    certpilot.wait_until_active(site)
    loose = "find /var/lib/certpilot/* /var/log/certpilot/* -maxdepth 0 -perm /077; find /var/lib/certpilot/* -perm /077"
    assert site.server.run(["sh", "-c", loose]).stdout == ""
    assert set(site.server.run(["sh", "-c", "stat -c %a:%U /var/lib/certpilot/jobs/*"]).stdout.split()) == {
        "700:root"
    }
