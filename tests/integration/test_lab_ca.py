"""The lab's CA: limits as certbot meets them, a clock of its own, a staging door, and its DNS."""

import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import dns.message
import dns.query
import dns.rcode
import pytest
from cryptography import x509

from deploy.lab.acme_messages import Reply
from deploy.lab.ca_limits import Figure, LimitName
from deploy.lab.lab import Lab

WEEK_SECONDS = 7 * 86400
LIMITS = {LimitName.CERTIFICATES_PER_SET: Figure(1, WEEK_SECONDS), LimitName.FAILURES: Figure(1, 3600)}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(servers=1, limits=LIMITS, broker=False, database=False, validity_seconds=10 * 86400) as started:
        yield started


@pytest.fixture(autouse=True)
def truthful(lab: Lab) -> Iterator[None]:
    yield
    lab.ca.production.answer_truly()


def certbot(lab: Lab, name: str, *arguments: str, url: str | None = None) -> subprocess.CompletedProcess[str]:
    """Get a certificate by webroot; the site is made where it is missing."""
    if not lab.server.exists(f"/var/www/{name}"):
        lab.server.add_site(name)
        lab.point(name)
    command = [
        "certbot",
        "certonly",
        "-n",
        "--agree-tos",
        "--register-unsafely-without-email",
        "-a",
        "webroot",
    ]
    command += ["--server", url or lab.ca.directory_url, "-w", f"/var/www/{name}", "-d", name, *arguments]
    return lab.server.run(command, check=False)


def test_limit_refuses_in_the_debug_log_and_lifts_when_the_cas_clock_is_moved(lab: Lab) -> None:
    assert certbot(lab, "limit.test").returncode == 0
    assert certbot(lab, "limit.test", "--force-renewal").returncode == 1
    log = lab.server.read("/var/log/letsencrypt/letsencrypt.log")
    assert (
        "too many certificates (1) already issued for this exact set of identifiers in the last 168h0m0s"
        in log
    )
    assert "urn:ietf:params:acme:error:rateLimited" in log
    retry_after = int(log.rpartition("Retry-After: ")[2].split()[0])
    assert WEEK_SECONDS - 60 <= retry_after <= WEEK_SECONDS * 1.03
    assert len(lab.ca.production.orders("limit.test")) == 1
    lab.ca.production.offset_seconds = WEEK_SECONDS
    assert certbot(lab, "limit.test", "--force-renewal").returncode == 0
    assert lab.ca.production.orders_by_set()[("limit.test",)] == 2
    lab.ca.production.offset_seconds = 0


def test_failed_validation_counts_against_the_name(lab: Lab) -> None:
    words = "During secondary validation: 192.0.2.7: Fetching http://far.test/x: Timeout during connect"
    lab.ca.production.fail_validation("far.test", "connection", words)
    assert words in certbot(lab, "far.test").stdout
    lab.ca.production.answer_truly()
    assert certbot(lab, "far.test").returncode == 1
    assert lab.ca.production.refusals()[-1].detail.startswith(
        'too many failed authorizations (1) for "far.test"'
    )
    assert lab.ca.production.certificates("far.test") == []


def test_outage_refuses_connections_and_ends(lab: Lab) -> None:
    lab.ca.production.down()
    assert "Connection refused" in certbot(lab, "outage.test").stderr
    lab.ca.production.up()
    assert certbot(lab, "outage.test").returncode == 0


def test_every_endpoint_can_be_scripted_for_a_number_of_times(lab: Lab) -> None:
    lab.ca.production.answer(Reply.server_internal(), endpoint="finalize")
    assert certbot(lab, "broken.test").returncode == 1
    assert len(lab.ca.production.orders("broken.test")) == 1
    assert lab.ca.production.certificates("broken.test") == []
    assert certbot(lab, "broken.test").returncode == 0


def test_dry_run_goes_to_the_staging_door_and_leaves_production_alone(lab: Lab) -> None:
    done = certbot(lab, "dry.test", "--dry-run", url=lab.ca.staging_directory_url)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(lab.ca.staging.orders("dry.test")) == 1
    assert lab.ca.production.orders("dry.test") == []


def test_lifetime_is_as_set_and_can_be_changed(lab: Lab) -> None:
    assert certbot(lab, "short.test").returncode == 0
    assert abs(lifetime(lab, "short.test") - timedelta(days=10)) < timedelta(minutes=1)
    old_root = lab.ca.roots_file.read_text()
    lab.ca.restart(validity_seconds=3600)
    assert lab.ca.roots_file.read_text() != old_root
    lab.server.run(["rm", "-rf", "/etc/letsencrypt/accounts"])  # a new Pebble knows no old account
    assert certbot(lab, "shorter.test").returncode == 0
    assert abs(lifetime(lab, "shorter.test") - timedelta(hours=1)) < timedelta(minutes=1)


def lifetime(lab: Lab, name: str) -> timedelta:
    certificate = x509.load_pem_x509_certificate(
        lab.server.read(f"/etc/letsencrypt/live/{name}/cert.pem").encode()
    )
    return certificate.not_valid_after_utc - max(
        certificate.not_valid_before_utc, datetime(2020, 1, 1, tzinfo=UTC)
    )


def ask(lab: Lab, name: str, kind: str, *, tcp: bool = False) -> dns.message.Message:
    query = dns.message.make_query(name, kind)
    send = dns.query.tcp if tcp else dns.query.udp
    return send(query, lab.network.authority, timeout=2)


def test_dns_says_what_was_set_and_nothing_else(lab: Lab) -> None:
    lab.dns.set_a("a.dns.test", "192.0.2.1", "192.0.2.2")
    lab.dns.set_caa("a.dns.test", "letsencrypt.org", ";")
    lab.dns.set_cname("alias.dns.test", "a.dns.test")
    assert {str(item) for item in ask(lab, "A.DNS.test", "A").answer[0]} == {"192.0.2.1", "192.0.2.2"}
    assert {str(item) for item in ask(lab, "a.dns.test", "CAA").answer[0]} == {
        '0 issue "letsencrypt.org"',
        '0 issue ";"',
    }
    chain = ask(lab, "alias.dns.test", "A", tcp=True).answer
    assert [str(rrset.name) for rrset in chain] == ["alias.dns.test.", "a.dns.test."]
    nodata = ask(lab, "a.dns.test", "AAAA")
    assert (nodata.rcode(), nodata.answer) == (dns.rcode.NOERROR, [])
    assert ask(lab, "dns.test", "A").rcode() == dns.rcode.NOERROR  # something lies below it
    assert ask(lab, "no.dns.test", "A").rcode() == dns.rcode.NXDOMAIN
    lab.dns.clear("a.dns.test")
    assert ask(lab, "a.dns.test", "A").rcode() == dns.rcode.NXDOMAIN


def test_dns_can_fail_be_silent_and_be_off(lab: Lab) -> None:
    lab.dns.set_a("bad.test", "192.0.2.1")
    lab.dns.set_servfail("bad.test")
    assert ask(lab, "bad.test", "A").rcode() == dns.rcode.SERVFAIL
    lab.dns.set_servfail("bad.test", broken=False)
    lab.dns.set_silent("bad.test")
    with pytest.raises(dns.exception.Timeout):
        dns.query.udp(dns.message.make_query("bad.test", "A"), lab.network.authority, timeout=0.3)
    lab.dns.set_silent("bad.test", silent=False)
    assert ask(lab, "bad.test", "A").rcode() == dns.rcode.NOERROR
    lab.dns.stop()
    with pytest.raises(ConnectionRefusedError):
        ask(lab, "bad.test", "A", tcp=True)
    lab.dns.start()
    assert ask(lab, "bad.test", "A", tcp=True).rcode() == dns.rcode.NOERROR


def test_large_answers_come_by_tcp(lab: Lab) -> None:
    lab.dns.set_a("many.test", *(f"192.0.2.{number}" for number in range(1, 200)))
    query = dns.message.make_query("many.test", "A", use_edns=False)
    response, by_tcp = dns.query.udp_with_fallback(query, lab.network.authority, timeout=2)
    assert by_tcp
    assert len(response.answer[0]) == 199
