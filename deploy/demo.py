"""`make demo`: from a plain JSON message on RabbitMQ to two sites that answer over HTTPS, all parts real.

Ends with 0 only if every site became active and a client that trusts the CA's root was served a valid certificate.
"""

import argparse
import contextlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pika
import psycopg
from cryptography import x509
from cryptography.x509.oid import NameOID

from deploy.lab.ca_limits import LETS_ENCRYPT
from deploy.lab.lab import Lab
from deploy.lab.machine import LabError
from deploy.lab.server import CustomerServer

ROLES = ("intake", "relay", "runner", "activity", "scheduler")
DEADLINE_SECONDS = 180
_CERTPILOT = str(Path(sys.executable).with_name("certpilot"))


@dataclass(frozen=True)
class DemoSite:
    """A site of the demo."""

    site_id: str
    domain: str
    aliases: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The domain and its aliases."""
        return (self.domain, *self.aliases)


SITES = (
    DemoSite("site_shop", "shop.example.com", ("www.shop.example.com",)),
    DemoSite("site_blog", "blog.example.com", ()),
)


class DemoFailedError(Exception):
    """The demo did not show what it promises."""


def main() -> int:
    """Run the demo; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave everything running until Ctrl-C")
    args = parser.parse_args()
    try:
        with Lab(servers=1, limits=LETS_ENCRYPT) as lab:
            _show(lab, keep=args.keep)
    except (DemoFailedError, LabError) as error:
        print(f"\ndemo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ndemo: interrupted; everything is stopped and removed", file=sys.stderr)
        return 130
    print("\nAll of it is stopped and removed. `make demo KEEP=1` leaves it running.")
    return 0


def _show(lab: Lab, *, keep: bool) -> None:
    server = lab.server
    _say(
        f"Started RabbitMQ, PostgreSQL, a Pebble CA and a customer server at {server.host} in {lab.start_seconds['all']:.1f} s"
    )
    for site in SITES:
        server.add_site(*site.names)
        lab.point(*site.names)
    environment = lab.environment(database_url=lab.postgres.create_database("certpilot"))
    _certpilot(environment, "migrate")
    with _roles(lab, environment), _feed(environment):
        _say("Publishing IssueSSL for two sites of that server, as any producer would:")
        for site in SITES:
            _publish(environment, _command(site, server))
        _wait_until_active(environment)
    _say("What the database says (certpilot status):")
    _certpilot(environment, "status")
    _say("What visitors get:")
    for site in SITES:
        for name in site.names:
            _fetch(name, server, lab.ca.roots_file)
    if keep:
        _keep(lab, environment)


def _command(site: DemoSite, server: CustomerServer) -> dict[str, object]:
    return {
        "specversion": "1.0",
        "id": str(uuid4()),
        "source": "/demo",
        "type": "com.cloudaipilot.ssl.issue.v1",
        "data": {
            "siteId": site.site_id,
            "domain": site.domain,
            "aliases": list(site.aliases),
            "server": {"host": server.host, "hostKey": server.host_key},
        },
    }


def _publish(environment: dict[str, str], command: dict[str, object]) -> None:
    connection = pika.BlockingConnection(pika.URLParameters(environment["CERTPILOT_RABBITMQ_URL"]))
    with contextlib.closing(connection):
        channel = connection.channel()
        channel.confirm_delivery()
        body = json.dumps(command)
        print(f"  {body}")
        channel.basic_publish("ssl.commands", "ssl.issue", body.encode(), mandatory=True)


@contextlib.contextmanager
def _roles(lab: Lab, environment: dict[str, str]) -> Iterator[None]:
    """Run each role in a process of its own; stop them in good order."""
    logs = lab.directory / "roles.log"
    with logs.open("wb") as log:
        processes = [
            subprocess.Popen([_CERTPILOT, "run", role], env=environment, stdout=log, stderr=log)
            for role in ROLES
        ]
        try:
            _wait_for_consumers(environment, processes, logs)
            _say(f"Started the roles {', '.join(ROLES)}")
            yield
        finally:
            _stop(processes)


def _wait_for_consumers(
    environment: dict[str, str], processes: list[subprocess.Popen[bytes]], logs: Path
) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        if any(process.poll() is not None for process in processes) or time.monotonic() > deadline:
            raise DemoFailedError(f"a role did not start:\n{logs.read_text()[-2000:]}")
        with contextlib.suppress(pika.exceptions.AMQPError):
            connection = pika.BlockingConnection(pika.URLParameters(environment["CERTPILOT_RABBITMQ_URL"]))
            with contextlib.closing(connection):
                channel = connection.channel()
                consumers = [
                    channel.queue_declare(queue, passive=True).method.consumer_count
                    for queue in ("ssl.commands", "ssl.jobs", "ssl.activity")
                ]
                if all(consumers):
                    return
        time.sleep(0.1)


@contextlib.contextmanager
def _feed(environment: dict[str, str]) -> Iterator[None]:
    """Show the activity feed live while the block lasts."""
    follower = subprocess.Popen([_CERTPILOT, "activity", "--follow", "--since", "0"], env=environment)
    try:
        yield
        time.sleep(0.5)  # the last rows are on their way to the screen
    finally:
        _stop([follower])


def _wait_until_active(environment: dict[str, str]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    with psycopg.connect(environment["CERTPILOT_DATABASE_URL"], autocommit=True) as conn:
        while True:
            rows = conn.execute(
                "select site_id, ssl_status, job_state, error_code, error_message from site_ssl"
            ).fetchall()
            told = conn.execute("select count(*) from activity_feed where ssl_status = 'active'").fetchone()
            if told == (len(SITES),):
                return
            trouble = [row for row in rows if row[2] in {"waiting", "failed", "dead"}]
            if trouble or time.monotonic() > deadline:
                raise DemoFailedError(f"not every site became active: {trouble or rows}")
            time.sleep(0.1)


def _fetch(name: str, server: CustomerServer, roots: Path) -> None:
    """Fetch the page over HTTPS as a browser that trusts the CA does, and over HTTP to see the redirect."""
    context = ssl.create_default_context(cafile=str(roots))
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    try:
        with (
            socket.create_connection((server.host, 443), 10) as plain,
            context.wrap_socket(plain, server_hostname=name) as secured,
        ):
            der = secured.getpeercert(binary_form=True)
            status = _get(secured, name)
    except OSError as error:
        raise DemoFailedError(f"https://{name} is not served with a valid certificate: {error}") from error
    assert der is not None
    with socket.create_connection((server.host, 80), 10) as plain:
        redirect = _get(plain, name)
    if " 200 " not in f"{status} " or " 301 " not in f"{redirect} ":
        raise DemoFailedError(f"{name}: https answered {status!r}, http answered {redirect!r}")
    certificate = x509.load_der_x509_certificate(der)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    issuer = certificate.issuer.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
    print(
        f"  https://{name}  {status.removeprefix('HTTP/1.1 ')}   (http:// answers {redirect.removeprefix('HTTP/1.1 ')})"
    )
    print(f"    issuer {issuer!s}, names {', '.join(names.get_values_for_type(x509.DNSName))}")
    print(
        f"    valid until {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC, verified against the CA's root"
    )


def _get(connection: socket.socket, name: str) -> str:
    connection.sendall(f"GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode())
    return connection.makefile("rb").readline().decode().strip()


def _keep(lab: Lab, environment: dict[str, str]) -> None:
    """Run the roles on and say how to look around, until Ctrl-C."""
    with _roles(lab, environment):
        settings = lab.directory / "settings"
        lines = [
            f"export {name}='{value}'" for name, value in environment.items() if name.startswith("CERTPILOT_")
        ]
        settings.write_text("\n".join(lines) + "\n")
        server = lab.server
        _say("It goes on running until Ctrl-C. In another shell, as root:")
        print(f"  . {settings}    # then, for example:")
        print(f"  {_relative(_CERTPILOT)} status")
        print(f"  {_relative(_CERTPILOT)} activity --follow")
        print(f"  {_relative(_CERTPILOT)} renew --site {SITES[0].site_id} --force --wait")
        print("  psql \"$CERTPILOT_DATABASE_URL\" -c 'select * from site_ssl'")
        print(f"  {' '.join(lab.ssh_command(server))}    # the customer server")
        signal.pause()


def _relative(path: str) -> str:
    return os.path.relpath(path)


def _certpilot(environment: dict[str, str], *words: str) -> None:
    done = subprocess.run([_CERTPILOT, *words], env=environment, check=False)
    if done.returncode != 0:
        raise DemoFailedError(f"certpilot {' '.join(words)} ended with {done.returncode}")


def _stop(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(40)
        process.kill()
        process.wait()


def _say(text: str) -> None:
    print(f"\n== {text}", flush=True)


if __name__ == "__main__":
    # An interpreter that dies of Ctrl-C in the middle of a `finally` would leave things behind; the lab handles SIGTERM.
    sys.exit(main())
