"""The preflight ends in its time whichever part is slow, and what was not told by then blocks nothing."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from contracts.codes import Code
from db.pool import open_pool
from deploy.lab.lab import Lab
from deploy.lab.server import CustomerServer
from tests.support.held_jobs import add_job, take
from tests.support.installation import ROLES, DemoSite, Installation, new_site, orders_of
from tests.support.roles import running
from workers.core.model import Authenticator, Server
from workers.core.preflight.judge import Observations, Preflight, Verdict, judge
from workers.edges.server.agent import ServerAgent
from workers.edges.server.ssh import SshConnection
from workers.runner.flights import Flight
from workers.runner.observe import Observer

SECONDS = 6.0
"""Not the 3 of the default: this machine may be busy. What is slow here takes 20 s, the time that the server's script
itself gives to nginx and to its lock, so that whoever waited for it would find it gone."""

SLOW_NGINX = '#!/bin/sh\n[ "$1" != -T ] || exec sleep 600\nexec /usr/sbin/nginx "$@"\n'
SLOW_PATH = "/usr/local/sbin/nginx"


@pytest.fixture(scope="module")
def server(lab: Lab) -> Iterator[CustomerServer]:
    made = lab.add_server()
    yield made
    made.stop()
    lab.servers.remove(made)


@pytest.fixture
def slow_nginx(server: CustomerServer) -> Iterator[None]:
    """nginx works, but does not show its configuration."""
    server.write(SLOW_PATH, SLOW_NGINX, mode=0o755)
    yield
    server.run(["rm", SLOW_PATH])


@contextmanager
def flight_of(installation: Installation, site: DemoSite) -> Iterator[Flight]:
    """The site's job, claimed and connected as a runner does."""
    server = Server(site.server.host, host_key=site.server.host_key)
    with open_pool(installation.database_url, "test", max_size=1) as pool:
        job = take(pool, add_job(installation.conn, *site.names, server=server))
    config = installation.settings()
    with SshConnection.connect(
        server, key_files=config.ssh_private_key_file, known_hosts_file=None
    ) as connection:
        agent = ServerAgent(connection, server, job.claim.fence)
        agent.look(job.claim.job_id, 0)  # as every turn does first: the script is there then
        yield Flight(job, agent)


def unsure(found: Preflight) -> set[str]:
    return {result.check for result in found.results if result.verdict is Verdict.UNSURE}


def observe(installation: Installation, flight: Flight) -> tuple[Observations, Preflight]:
    seen = Observer(installation.settings(preflight_seconds=SECONDS)).observe(flight)
    return seen, judge(seen)


@pytest.mark.usefixtures("slow_nginx")
def test_nginx_that_does_not_answer_leaves_its_checks_unsure_and_the_others_told(
    installation: Installation, lab: Lab, server: CustomerServer
) -> None:
    site = new_site(lab, server=server)
    with flight_of(installation, site) as flight:
        seen, found = observe(installation, flight)
        assert server.cell.processes("sleep"), "it was waited for"
    assert not seen.facts.complete
    assert (seen.facts.certbot_path, seen.facts.port80_listeners) == ("/usr/bin/certbot", ("nginx",))
    assert site.domain in seen.facts.lineages
    assert {"nginx configuration", "server block"} <= unsure(found)
    assert (found.blocking, found.authenticator) == (None, Authenticator.NGINX)
    assert [probe.status for probe in seen.probes if probe.address == server.host] == [404]


def test_script_that_another_command_holds_places_no_probe_and_blocks_nothing(
    installation: Installation, lab: Lab, server: CustomerServer
) -> None:
    site = new_site(lab, server=server)
    with flight_of(installation, site) as flight:
        holder = server.cell.spawn(
            ["flock", "-F", "/var/lib/certpilot/agent.lock", "sleep", "600"], log=server.log
        )
        server.wait(lambda: bool(server.cell.processes("sleep")), "the lock is held")
        seen, found = observe(installation, flight)
        # One that places the probe, with most of its 20 s before it still, and one that takes it away.
        server.wait(lambda: len(server.cell.processes("flock")) == 2, "both wait for the lock")
        holder.kill()
    assert seen.facts.complete
    assert (found.blocking, found.authenticator) == (None, Authenticator.NGINX)
    assert [probe.status for probe in seen.probes if probe.address == server.host] == [404]


@pytest.mark.usefixtures("slow_nginx")
def test_everything_slow_at_once_ends_in_the_same_time_and_what_is_sure_is_told(
    installation: Installation, lab: Lab, server: CustomerServer
) -> None:
    site = new_site(lab, aliases=1, server=server)
    lab.dns.set_silent(site.aliases[0])
    server.block(80)
    try:
        with flight_of(installation, site) as flight:
            _, found = observe(installation, flight)
            assert server.cell.processes("sleep"), "it was waited for"
    finally:
        server.unblock(80)
    assert found.blocking
    assert (found.blocking.code, found.blocking.names) == (Code.PORT_80_BLOCKED, (site.domain,))
    assert {"nginx configuration", "DNS"} <= unsure(found)


@pytest.mark.usefixtures("slow_nginx")
def test_server_that_is_too_slow_for_every_preflight_gets_its_certificate(
    installation: Installation, lab: Lab, server: CustomerServer
) -> None:
    site = new_site(lab, server=server)
    with running(installation.settings(preflight_seconds=SECONDS), *ROLES):
        installation.issue(site)
        installation.wait_until_active(site)
    assert len(orders_of(lab, site)) == 1
