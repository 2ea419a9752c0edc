"""A CA that wants an External Account Binding: issued through it, and the binding's key is nowhere to be read."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.lab.lab import Lab
from tests.support.installation import CERTPILOT, ROLES, Installation, OwnQueue, new_site
from tests.support.roles import running
from tests.support.secrets import all_files, everything_stored, watching_arguments

KID, KEY = "kid-1", "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """A lab of the module's own: a CA that is started anew forgets the accounts of everybody else's servers."""
    with Lab(servers=1, broker=False, database=False) as started:
        started.ca.restart(eab_keys={KID: KEY})
        yield started


def test_a_ca_that_wants_a_binding_gets_it_and_its_key_is_shown_nowhere(
    lab: Lab, installation: Installation, tmp_path: Path
) -> None:
    key_file = tmp_path / "key"
    key_file.write_text(f"{KEY}\n")
    site = new_site(lab)
    events = OwnQueue(installation.rabbitmq_url)
    choices = {
        "ACME_EAB_KID": KID,
        "ACME_EAB_HMAC_KEY_FILE": str(key_file),
        "KEY_TYPE": "rsa",
        "ACME_PROFILE": "short",
    }
    changes = {f"CERTPILOT_{name}": value for name, value in choices.items()}
    with contextlib.ExitStack() as stack:
        arguments = stack.enter_context(watching_arguments(site.server))
        for role in ROLES:
            log = tmp_path / f"{role}.log"
            stack.enter_context(
                installation.process(CERTPILOT, "run", role, log=log, CERTPILOT_LOG_FORMAT="json", **changes)
            )
        installation.issue(site)
        installation.wait_until_active(site)
        installation.settled_feed(site)
    key = site.server.run(
        ["openssl", "x509", "-noout", "-text", "-in", f"/etc/letsencrypt/live/{site.domain}/cert.pem"]
    )
    assert "rsaEncryption" in key.stdout
    requesting = installation.wait_for_event(site, "requesting")
    # Debian 12's certbot is older than 4.0 and has no such option; Debian 13's is given the profile.
    version = site.server.run(["certbot", "--version"]).stdout.split()[-1]
    is_told = "knows no profiles" in requesting.detail["message"]
    assert is_told is (int(version.partition(".")[0]) < 4)
    places = [
        *((str(log), log.read_bytes()) for log in tmp_path.glob("*.log")),
        *(("event", body + repr(properties).encode()) for properties, body in events.read()),
        *(("arguments", one) for one in arguments),
        *everything_stored(installation),
        (
            "the server",
            all_files(
                site.server,
                "/var/lib/certpilot /var/log/certpilot /etc/letsencrypt /var/log/letsencrypt /tmp",
            ),
        ),
    ]
    # What is searched is there: certbot's own arguments, and the key id in what is stored.
    assert any(b"eab.ini" in text for name, text in places if name == "arguments")
    assert any(KID.encode() in text for name, text in places if name == "table job_attempt")
    assert [name for name, text in places if KEY.encode() in text] == []


def test_without_a_binding_the_operator_is_told(lab: Lab, installation: Installation) -> None:
    site = new_site(lab, server=lab.add_server())
    with running(installation.settings(), *ROLES):
        installation.issue(site)
        assert installation.wait_for_event(site, "none").code == "ACCOUNT_EAB_REQUIRED"
