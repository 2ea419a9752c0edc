"""The soak of `make soak`, shortened: two lifetimes of two minutes."""

from pathlib import Path

from deploy.lab.lab import Lab
from deploy.lab.postgres import PostgresServer
from deploy.lab.rabbitmq import RabbitNode
from tests.conftest import TEMPLATE
from tests.soak.soak import SERVERS, Soak
from tests.support.installation import installed

LIFETIME_SECONDS = 120
TOLERATED_SECONDS = 30.0
"""Ours renew with a fifth of the lifetime left, 24 s here: a machine that all other tests keep busy may need longer for
one certbot run. The soak of `make soak` tolerates nothing."""


def test_certificates_of_minutes_are_kept_and_where_that_cannot_be_the_cause_is_told(
    postgres: PostgresServer, rabbit: RabbitNode, tmp_path: Path
) -> None:
    with (
        Lab(servers=SERVERS, validity_seconds=LIFETIME_SECONDS, broker=False, database=False) as lab,
        installed(lab, postgres, rabbit, template=TEMPLATE) as certpilot,
    ):
        soak = Soak(
            lab, certpilot, lifetime_seconds=LIFETIME_SECONDS, lifetimes=2.0, say=print,
            tolerated_seconds=TOLERATED_SECONDS,
        )  # fmt: skip
        report = soak.run(tmp_path / "roles.log")
    assert not report.complaints, report.as_text()
    assert all(shown >= 2 for shown in report.certificates.values()), report.as_text()
