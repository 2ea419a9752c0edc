"""Fixtures for every test: one real server of each kind a session, a fresh database or vhost a test."""

import signal
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import hypothesis
import pytest

from db import migrate as migrations
from db.pool import Connection, Pool, connect, open_pool
from deploy.lab.postgres import PostgresServer
from deploy.lab.rabbitmq import RabbitNode
from deploy.lab.run_directory import RunDirectory

TEMPLATE = "certpilot_template"

# The same cases every time, so that a run says something of the change and not of the dice; and no deadline for each, as
# a busy machine is no failure. New cases: make test PYTEST=--hypothesis-profile=explore
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.register_profile("explore", deadline=None)
hypothesis.settings.load_profile("repeatable")

# A shell that starts us in the background has Ctrl-C ignored, and every program that we start would inherit that; what
# has a handler here is back at its default there.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def run_directory() -> Iterator[Path]:
    with RunDirectory() as directory:
        yield directory.path


@pytest.fixture(scope="session")
def postgres(run_directory: Path) -> Iterator[PostgresServer]:
    with PostgresServer(run_directory / "postgres") as server:
        url = server.create_database(TEMPLATE)
        with connect(url, "template", autocommit=True) as conn:
            migrations.migrate(conn)
        yield server


@pytest.fixture
def database_url(postgres: PostgresServer) -> Iterator[str]:
    """A migrated database of the test's own."""
    name = f"test_{uuid4().hex[:12]}"
    yield postgres.create_database(name, template=TEMPLATE)
    postgres.drop_database(name)


@pytest.fixture
def conn(database_url: str) -> Iterator[Connection]:
    with connect(database_url, "test", autocommit=True) as connection:
        yield connection


@pytest.fixture
def pool(database_url: str) -> Iterator[Pool]:
    with open_pool(database_url, "test", max_size=4) as opened:
        yield opened


@pytest.fixture(scope="session")
def rabbit(run_directory: Path) -> Iterator[RabbitNode]:
    with RabbitNode(run_directory / "rabbitmq") as node:
        yield node


@pytest.fixture
def broker_url(rabbit: RabbitNode) -> str:
    """A vhost of the test's own, as CERTPILOT_RABBITMQ_URL."""
    name = f"test-{uuid4().hex[:12]}"
    rabbit.add_vhost(name)
    return rabbit.url(name)
