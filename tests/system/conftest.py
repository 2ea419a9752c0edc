"""The lab of all system tests: a CA with its DNS and two customer servers, beside the session's broker and database.

It is shared; what a test needs of its own are names, a database and a vhost. A test that changes a server for others
(a firewall, a power cut) puts it back.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.lab.lab import Lab
from deploy.lab.postgres import PostgresServer
from deploy.lab.rabbitmq import RabbitNode
from tests.conftest import TEMPLATE
from tests.support.installation import ROLES, Installation, installed
from tests.support.roles import running


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    with Lab(servers=2, broker=False, database=False) as started:
        yield started


@pytest.fixture
def installation(lab: Lab, postgres: PostgresServer, rabbit: RabbitNode) -> Iterator[Installation]:
    """A certpilot of the test's own; nothing of it runs."""
    with installed(lab, postgres, rabbit, template=TEMPLATE) as made:
        yield made


@pytest.fixture
def certpilot(installation: Installation) -> Iterator[Installation]:
    """The same with every role running in this process."""
    with running(installation.settings(), *ROLES):
        yield installation


@pytest.fixture(scope="module")
def certpilot_of_module(lab: Lab, postgres: PostgresServer, rabbit: RabbitNode) -> Iterator[Installation]:
    """A certpilot that all tests of a module share, every role running in this process."""
    with (
        installed(lab, postgres, rabbit, template=TEMPLATE) as made,
        running(made.settings(), *ROLES),
    ):
        yield made


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for what a module's processes say."""
    return tmp_path_factory.mktemp("logs")
