"""The real parts that measurements need: a broker, a database, roles of ours."""

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import uuid4

import pika
import psycopg

from contracts.events import JobProgress, build_event, event_properties, routing_key_of
from contracts.topology import EVENTS_EXCHANGE
from db import migrate
from db.pool import connect
from deploy.lab.lab import Lab
from deploy.lab.postgres import PostgresServer
from deploy.lab.rabbitmq import RabbitNode
from deploy.lab.run_directory import RunDirectory
from tests.support.installation import CERTPILOT, Installation, installed
from workers.edges.amqp.broker import ensure_topology
from workers.edges.amqp.outgoing import OutgoingMessage
from workers.settings import Settings

TEMPLATE = "bench_template"


@dataclass(frozen=True)
class Parts:
    """A private broker with our topology, and a migrated database."""

    postgres: PostgresServer
    rabbit: RabbitNode
    database_url: str
    rabbitmq_url: str

    @property
    def settings(self) -> Settings:
        return Settings(database_url=self.database_url, rabbitmq_url=self.rabbitmq_url)

    def purge(self, queue: str) -> None:
        """Empty a queue."""
        connection = pika.BlockingConnection(pika.URLParameters(self.rabbitmq_url))
        connection.channel().queue_purge(queue)
        connection.close()


def make_template(postgres: PostgresServer) -> str:
    """A migrated database to copy from; its name."""
    url = postgres.create_database(TEMPLATE)
    with connect(url, "bench", autocommit=True) as conn:
        migrate.migrate(conn)
    return TEMPLATE


@contextmanager
def broker_and_database() -> Iterator[Parts]:
    """Both, for one module."""
    with (
        RunDirectory() as directory,
        RabbitNode(directory.path / "rabbitmq") as rabbit,
        PostgresServer(directory.path / "postgres") as postgres,
    ):
        template = make_template(postgres)
        url = postgres.create_database("bench", template=template)
        rabbit.add_vhost("bench")
        ensure_topology(rabbit.url("bench"), name="bench")
        yield Parts(postgres, rabbit, url, rabbit.url("bench"))


def make_events(count: int) -> list[OutgoingMessage]:
    """Progress events of a hundred sites as our roles write them; each with an id of its own."""
    events = []
    for number in range(count):
        site_id, event_id = f"site_{number % 100}", str(uuid4())
        data = JobProgress(
            site_id=site_id, domain=f"shop-{number % 100}.example.com", sequence=number // 100 + 1,
            command_id=str(uuid4()), command_source="/sites", job_id=str(uuid4()), step="requesting", attempt=1,
            message=f"Requesting a certificate for shop-{number % 100}.example.com.", retry_at=None, error=None,
        )  # fmt: skip
        properties = event_properties(event_id=event_id, site_id=site_id, data=data)
        body = build_event(event_id=event_id, site_id=site_id, occurred_at=datetime.now(UTC), data=data)
        events.append(
            OutgoingMessage(
                EVENTS_EXCHANGE, routing_key_of(data), body, message_id=event_id,
                content_type=properties.content_type, headers=dict(properties.headers),
            )
        )  # fmt: skip
    return events


def wait(condition: Callable[[], object], *, seconds: float = 120.0, every: float = 0.005) -> float:
    """Wait for it; `time.perf_counter()` of the moment."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:g} s")
        time.sleep(every)
    return time.perf_counter()


def open_plain(url: str) -> "psycopg.Connection[tuple[object, ...]]":
    """A connection without anything of ours."""
    return psycopg.connect(url, autocommit=True)


@contextmanager
def certpilot_in_a_lab(*, servers: int = 1) -> Iterator[Installation]:
    """A whole lab and an installation of ours in it; no role runs."""
    with (
        Lab(servers=servers) as lab,
        installed(lab, lab.postgres, lab.rabbit, template=make_template(lab.postgres)) as made,
    ):
        yield made


@contextmanager
def role_processes(installation: Installation, *roles: str) -> Iterator[list["subprocess.Popen[bytes]"]]:
    """Run each role in a process of its own, as in production; their output goes to the lab's folder."""
    with contextlib.ExitStack() as stack:
        log = installation.lab.directory / "roles.log"
        yield [stack.enter_context(installation.process(CERTPILOT, "run", role, log=log)) for role in roles]


def wait_for_consumers(installation: Installation, **queues: int) -> None:
    """Wait until so many processes take from each queue: `jobs=2` is two runners on `ssl.jobs`."""
    connection = pika.BlockingConnection(pika.URLParameters(installation.rabbitmq_url))
    with contextlib.closing(connection):
        channel = connection.channel()
        for queue, wanted in queues.items():
            wait(
                lambda queue=queue, wanted=wanted: (
                    channel.queue_declare(f"ssl.{queue}", passive=True).method.consumer_count == wanted
                ),
                every=0.05,
            )
