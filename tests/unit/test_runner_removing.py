"""What a removal that failed is called: the reader's word where it knows the text, else the step's own."""

import pytest

from contracts.codes import Code
from workers.core.model import RunOutput
from workers.edges.server.upkeep import RemovalReport
from workers.runner.removing import _problem

STILL_USES = "/etc/nginx/sites-enabled/a.example still uses the certificate"


def report(step: str, stderr: str, stdout: str = "") -> RemovalReport:
    return RemovalReport(step, RunOutput(None, stdout, stderr, ""), edited=0, revoked=None, lineage=True)


def test_step_whose_text_the_reader_does_not_know_keeps_its_own_code_and_its_words() -> None:
    problem = _problem(report("edit", f"{STILL_USES}\n"), "edit")
    assert problem.code is Code.INSTALL_FAILED
    assert problem.message.endswith(f"the old files are back. {STILL_USES}")
    assert problem.evidence == (STILL_USES,)


@pytest.mark.parametrize(
    ("step", "code"),
    [
        ("nginx", Code.NGINX_CONFIG_BROKEN),
        ("revoke", Code.CA_UNAVAILABLE),
        ("delete", Code.LINEAGE_BROKEN),
        ("else", Code.INTERNAL),
    ],
)
def test_step_that_printed_nothing_was_not_interrupted(step: str, code: Code) -> None:
    assert _problem(report(step, ""), step).code is code


def test_what_the_reader_knows_is_told_in_its_words() -> None:
    said = "An unexpected error occurred:\nValueError: Requesting ca.example/dir: Connection refused\n"
    problem = _problem(report("revoke", said), "revoke")
    assert problem.code is Code.CA_UNREACHABLE
    assert "certificate authority did not revoke" in problem.message


def test_program_that_says_it_was_ended_was_interrupted() -> None:
    assert _problem(report("delete", "Terminated\n"), "delete").code is Code.INTERRUPTED
