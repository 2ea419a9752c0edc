"""One certpilot in the lab: its database and vhost, and what its producers, readers and visitors see of it.

Nothing here goes through code of ours: commands are JSON published by plain pika, the site's state comes from the two
reader views, certificates from a handshake or a server's disk.
"""

import contextlib
import itertools
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import pika
import psycopg
from cryptography import x509
from psycopg.rows import dict_row

from deploy.lab.acme_messages import Seen
from deploy.lab.lab import Lab
from deploy.lab.postgres import PostgresServer
from deploy.lab.rabbitmq import RabbitNode
from deploy.lab.server import CustomerServer
from tests.support.commands import command, publish
from tests.support.waiting import until
from workers.edges.amqp.broker import ensure_topology
from workers.settings import Settings

CERTPILOT = str(Path(sys.executable).with_name("certpilot"))
ROLES = ("intake", "relay", "activity", "scheduler", "runner")
ISSUE_SECONDS = 60.0
"""Deadline of everything that needs a certbot run: far more than the 3 s of a quiet machine."""

_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class DemoSite:
    """A customer's site; its names are of no other test."""

    site_id: str
    domain: str
    aliases: tuple[str, ...]
    server: CustomerServer

    @property
    def names(self) -> tuple[str, ...]:
        return (self.domain, *self.aliases)


@dataclass(frozen=True, slots=True)
class Event:
    """A row of the feed."""

    event_id: str
    kind: str
    status: str | None
    code: str | None
    sequence: int
    title: str
    detail: dict[str, Any]

    @property
    def step(self) -> str | None:
        return self.detail.get("step")


def new_site(
    lab: Lab,
    *,
    aliases: int = 0,
    server: CustomerServer | None = None,
    vhosts: bool = True,
    point: bool = True,
) -> DemoSite:
    """A site of fresh names: each name has a vhost with a root of its own, and resolves to the server."""
    server = server or lab.server
    label = f"n{next(_numbers)}-{uuid4().hex[:6]}"
    domain = f"{label}.example.com"
    site = DemoSite(f"site_{label}", domain, tuple(f"a{n}.{domain}" for n in range(1, aliases + 1)), server)
    if vhosts:
        for name in site.names:
            server.add_site(name)
    if point:
        lab.point(*site.names, to=server)
    return site


@dataclass
class Installation:
    """A certpilot of one test's own."""

    lab: Lab
    database_url: str
    rabbitmq_url: str
    conn: "psycopg.Connection[Any]"

    def environment(self, **changes: str) -> dict[str, str]:
        """For processes of ours."""
        urls = {"database_url": self.database_url, "rabbitmq_url": self.rabbitmq_url}
        return self.lab.environment(**urls) | changes

    def settings(self, **changes: Any) -> Settings:
        """For roles in this process."""
        of_lab = self.lab.settings(database_url=self.database_url, rabbitmq_url=self.rabbitmq_url)
        fields = {name.removeprefix("CERTPILOT_").lower(): value for name, value in of_lab.items()}
        return Settings(**(fields | changes))

    # --- a producer -------------------------------------------------------------------------------------------------

    def issue(self, site: DemoSite, **data: Any) -> str:
        """Publish IssueSSL; its id."""
        server = {"host": site.server.host, "hostKey": site.server.host_key}
        body = command(
            site=site.site_id,
            **({"domain": site.domain, "aliases": list(site.aliases), "server": server} | data),
        )
        publish(self.rabbitmq_url, body)
        return str(body["id"])

    def issue_all(self, *sites: DemoSite) -> None:
        """Publish IssueSSL for all of them at the same moment, on one connection."""
        bodies = [
            command(
                site=site.site_id, domain=site.domain, aliases=list(site.aliases),
                server={"host": site.server.host, "hostKey": site.server.host_key},
            )
            for site in sites
        ]  # fmt: skip
        publish(self.rabbitmq_url, *bodies)

    def renew(self, site: DemoSite, **data: Any) -> str:
        """Publish RenewSSL; its id."""
        body = command("renew", site=site.site_id, **data)
        publish(self.rabbitmq_url, body, routing_key="ssl.renew")
        return str(body["id"])

    def remove(self, site: DemoSite, **data: Any) -> str:
        """Publish RemoveSSL; its id."""
        body = command("remove", site=site.site_id, **data)
        publish(self.rabbitmq_url, body, routing_key="ssl.remove")
        return str(body["id"])

    # --- a reader ---------------------------------------------------------------------------------------------------

    def view(self, site: DemoSite) -> dict[str, Any]:
        """The site's row of `site_ssl`; empty where there is none yet."""
        with self.conn.cursor(row_factory=dict_row) as cursor:
            return (
                cursor.execute("select * from site_ssl where site_id = %s", (site.site_id,)).fetchone() or {}
            )

    def feed(self, site: DemoSite) -> list[Event]:
        """The site's rows of `activity_feed`."""
        rows = self.conn.execute(
            "select event_id, event_type, ssl_status, error_code, sequence, title, detail from activity_feed"
            " where site_id = %s order by id",
            (site.site_id,),
        ).fetchall()
        return [
            Event(row[0], row[1].removeprefix("com.cloudaipilot.").removesuffix(".v1"), *row[2:])
            for row in rows
        ]

    def wait_for_event(
        self, site: DemoSite, what: str, *, after: int = 0, seconds: float = ISSUE_SECONDS
    ) -> Event:
        """The first event of that kind, step, status or code, whose sequence is above `after`."""

        def look() -> Event | None:
            matching = (
                event
                for event in self.feed(site)
                if event.sequence > after and what in (event.kind, event.step, event.status, event.code)
            )
            return next(matching, None)

        deadline = time.monotonic() + seconds
        while not (found := look()):
            assert time.monotonic() < deadline, (
                f"{what!r} did not come: {self.view(site)}\n{self.story(site)}"
            )
            time.sleep(0.02)
        return found

    def wait_until_active(self, *sites: DemoSite, after: int = 0) -> None:
        """Wait until the feed says of each site that it is active."""
        for site in sites:
            self.wait_for_event(site, "active", after=after)

    def wait_until_waiting(self, site: DemoSite, code: str, *, after: int = 0) -> Event:
        """The event that says that the site's job waits for that code."""
        waiting = self.wait_for_event(site, "waiting", after=after)
        assert waiting.code == code, self.story(site)
        return waiting

    def sequence(self, site: DemoSite) -> int:
        """The number of the site's newest event."""
        return int(self.view(site).get("sequence", 0))

    def settled_feed(self, site: DemoSite) -> list[Event]:
        """The site's feed, once it holds every event that was written."""
        return until(
            lambda: (events := self.feed(site)) and events[-1].sequence == self.sequence(site) and events,
            what="the whole feed",
        )

    def story(self, site: DemoSite) -> str:
        """What happened, for a failure's message."""
        return "\n".join(
            f"{event.sequence:3} {event.kind} {event.step or event.status} {event.code or ''} "
            f"{event.detail.get('message') or ''} {(event.detail.get('error') or {}).get('message', '')}"
            for event in self.feed(site)
        )

    @contextmanager
    def watching(self, site: DemoSite) -> Iterator[list[tuple[str, str | None, int | None]]]:
        """What a reader who looks every few milliseconds sees of status, job state and attempt, each change once."""
        seen: list[tuple[str, str | None, int | None]] = []
        stop = threading.Event()

        def look() -> None:
            with psycopg.connect(self.database_url, autocommit=True) as conn:
                while not stop.is_set():
                    row = conn.execute(
                        "select ssl_status, job_state, attempt from site_ssl where site_id = %s",
                        (site.site_id,),
                    ).fetchone()
                    if row is not None and (not seen or seen[-1] != row):
                        seen.append(row)
                    stop.wait(0.005)

        thread = threading.Thread(target=look, name="reader")
        thread.start()
        try:
            yield seen
        finally:
            stop.set()
            thread.join()

    # --- processes --------------------------------------------------------------------------------------------------

    @contextmanager
    def process(self, *argv: str, log: Path, **changes: str) -> Iterator["subprocess.Popen[bytes]"]:
        """A process of ours; killed at the end where it still runs."""
        with log.open("ab") as output:
            child = subprocess.Popen(
                argv, env=self.environment(**changes), stdout=output, stderr=output, stdin=subprocess.DEVNULL
            )
        try:
            yield child
        finally:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            child.wait(10)


@contextmanager
def installed(
    lab: Lab, postgres: PostgresServer, rabbit: RabbitNode, *, template: str
) -> Iterator[Installation]:
    """A certpilot with a migrated database and a vhost of its own, both gone at the end; nothing of it runs."""
    name = f"certpilot-{uuid4().hex[:12]}"
    database_url = postgres.create_database(name, template=template)
    rabbit.add_vhost(name)
    try:
        rabbitmq_url = rabbit.url(name)
        ensure_topology(rabbitmq_url, name="test")
        with psycopg.connect(database_url, autocommit=True) as conn:
            yield Installation(lab, database_url, rabbitmq_url, conn)
    finally:
        rabbit.delete_vhost(name)
        postgres.drop_database(name)


# --- visitors and the CA --------------------------------------------------------------------------------------------


def served(lab: Lab, server: CustomerServer, name: str) -> x509.Certificate:
    """The certificate that a browser which trusts the lab's CA is served for a name; the handshake verifies it."""
    context = ssl.create_default_context(cafile=str(lab.ca.roots_file))
    with (
        socket.create_connection((server.host, 443), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=name) as secured,
    ):
        der = secured.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der)


def shown(server: CustomerServer, name: str) -> x509.Certificate | None:
    """The certificate that port 443 shows for a name, whether or not a browser would take it; None: it shows none."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection((server.host, 443), timeout=2) as plain,
            context.wrap_socket(plain, server_hostname=name) as secured,
        ):
            der = secured.getpeercert(binary_form=True)
    except OSError:
        return None
    return x509.load_der_x509_certificate(der) if der else None


def names_of(certificate: x509.Certificate) -> set[str]:
    """Its DNS names."""
    extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return set(extension.value.get_values_for_type(x509.DNSName))


def get_http(server: CustomerServer, name: str) -> tuple[int, str]:
    """Status and Location of `http://NAME/`."""
    with socket.create_connection((server.host, 80), timeout=10) as plain:
        plain.sendall(f"GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode())
        head = plain.makefile("rb").read().decode("latin-1").partition("\r\n\r\n")[0]
    status, *headers = head.split("\r\n")
    location = next((line[10:] for line in headers if line.lower().startswith("location: ")), "")
    return int(status.split()[1]), location


def wait_for_http(server: CustomerServer, name: str, status: int) -> None:
    """nginx reloads after it has said so: for a moment the workers of the old configuration still answer."""
    until(lambda: get_http(server, name)[0] == status, what=f"HTTP {status} of {name}")


def orders_of(lab: Lab, site: DemoSite) -> list[Seen]:
    """The orders that the CA took for any of the site's names."""
    return [seen for seen in lab.ca.production.orders() if set(seen.names) & set(site.names)]


def certbot_by_hand(lab: Lab, server: CustomerServer, *words: str) -> "subprocess.CompletedProcess[str]":
    """`certbot` with these words, over ssh, as an operator does it."""
    options = ["-n", "--agree-tos", "--register-unsafely-without-email", "--server", lab.ca.directory_url]
    line = lab.ssh_command(server, "certbot", *words, *options)
    done = subprocess.run(line, capture_output=True, text=True, timeout=ISSUE_SECONDS, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def certbot_logs(server: CustomerServer) -> str:
    """Everything that certbot ever said or logged on a server."""
    find = (
        "find /var/log/certpilot /var/log/letsencrypt /var/lib/certpilot/jobs /tmp -type f"
        " \\( -name '*.log*' -o -name log -o -name out -o -name err \\) -exec cat {} + 2>/dev/null || true"
    )
    return server.run(["sh", "-c", find]).stdout


def renewal_setting(server: CustomerServer, domain: str, key: str) -> str:
    """A value of the certificate's renewal file."""
    text = server.read(f"/etc/letsencrypt/renewal/{domain}.conf")
    found = re.search(rf"^{key} = (.*)$", text, re.MULTILINE)
    return found[1].rstrip(",") if found else ""


@dataclass
class OwnQueue:
    """A producer's own queue on `ssl.events`, bound and read by plain pika."""

    url: str
    name: str = field(default_factory=lambda: f"producer-{uuid4().hex[:8]}")

    def __post_init__(self) -> None:
        connection, channel = self._open()
        channel.exchange_declare("ssl.events", "topic", durable=True)
        channel.queue_declare(self.name, durable=True)
        channel.queue_bind(self.name, "ssl.events", "#")
        connection.close()

    def read(self) -> list[tuple[Any, bytes]]:
        """Take what is there: properties and body."""
        connection, channel = self._open()
        found = []
        while True:
            method, properties, body = channel.basic_get(self.name, auto_ack=True)
            if method is None:
                break
            found.append((properties, body))
        connection.close()
        return found

    def _open(self) -> tuple[Any, Any]:
        connection = pika.BlockingConnection(pika.URLParameters(self.url))
        return connection, connection.channel()
