"""The ends of a turn that are no success: what the run left behind is read, its attempt closed with the reason."""

from collections.abc import Sequence
from typing import assert_never

from contracts.codes import Code
from db import claims, outcomes
from db.outcomes import ClosedAttempt
from db.pool import Pool, transaction
from workers import logs
from workers.core.certificate import certificate_from_pem
from workers.core.deciding import attempt as protocol
from workers.core.deciding.unserved import why_unserved
from workers.core.limits.costs import OrderFate
from workers.core.limits.refusal import failed_names, unpause_link
from workers.core.model import Look, Problem, RunOutput
from workers.core.nginx.config import parse_nginx_config
from workers.core.preflight.server_facts import parse_server_facts
from workers.core.reading import Finding, read_run
from workers.edges.errors import EdgeError
from workers.runner.ending import Endings
from workers.runner.flights import Flight
from workers.runner.wire import Served, address_of, loaded_names

Unsuccessful = (
    protocol.CloseUnserved | protocol.CloseFailed | protocol.CloseVoid | protocol.WaitBusy | protocol.Supersede | protocol.Cancel
)  # fmt: skip

log = logs.get(__name__)

_KILLED = 137
"""128 + SIGKILL: the shell's word for a program that was killed."""

_KILLED_WORDS = "certbot was killed while it ran."
_NAMES_ASKED_ABOUT = 3
"""When visitors are shown something else, mostly all names are: asking for each on the server would take long."""

_BUSY = "Another certbot is at work on this server."
_INSTALL_CODES = frozenset(
    {
        Code.NO_MATCHING_VHOST, Code.INSTALL_FAILED, Code.NGINX_CONFIG_BROKEN, Code.NGINX_RELOAD_FAILED,
        Code.NGINX_CONFIG_UNREADABLE, Code.PORT_80_IN_USE, Code.CERTBOT_PLUGIN_MISSING, Code.NGINX_MISSING,
    }
)  # fmt: skip
"""What the output may say of a certificate that is there and not served; everything else is NOT_SERVED."""


class Closing:
    """Ends turns without success."""

    def __init__(self, db_pool: Pool, endings: Endings) -> None:
        self._pool = db_pool
        self._endings = endings

    def end(self, flight: Flight, action: Unsuccessful, look: Look, served: Served | None) -> bool:
        """End the turn as decided.

        Returns:
            True only where the job goes on at once in this claim: a dry run has passed.
        """
        match action:
            case protocol.CloseUnserved():
                self._close_unserved(flight, action, look, served)
            case protocol.CloseFailed(code=None):
                return self._close_read(flight, look)
            case protocol.CloseFailed():
                self._close_interrupted(flight, action, look)
            case protocol.CloseVoid():
                closed = ClosedAttempt("void", action.code, fate=action.fate)
                self._endings.problem(flight, Problem(action.code, _BUSY), closed)
            case protocol.WaitBusy():
                self._endings.problem(flight, Problem(action.code, _BUSY))
            case protocol.Supersede() | protocol.Cancel():
                self._endings.unwanted(flight)
            case _:
                assert_never(action)
        return False

    def _close_unserved(
        self, flight: Flight, action: protocol.CloseUnserved, look: Look, served: Served | None
    ) -> None:
        """The certificate is there and not shown: the next attempt only installs."""
        finding = read_run(self._collect(flight)).main
        code, message = finding.code, finding.message
        names = served.wrong if served else ()
        if code not in _INSTALL_CODES:
            found = served.found if served else "The certificate is not served."
            code, message = self._why_unserved(flight, look, names) or (Code.NOT_SERVED, found)
        evidence = _evidence(finding)
        closed = ClosedAttempt(
            "issued, not served", code, look.exit_code, "\n".join(evidence), fate=action.fate
        )
        assert code is not None
        # An order that went through shows that nothing else is in the way; an installation has not looked.
        beside = None if self._only_installs(flight) else frozenset[Code]()
        problem = Problem(code, message, names, evidence=evidence, beside=beside)
        self._endings.problem(flight, problem, closed)

    def _only_installs(self, flight: Flight) -> bool:
        with transaction(self._pool) as conn:
            return bool(outcomes.read_attempt(conn, flight.job).spec.get("only_install"))

    def _close_read(self, flight: Flight, look: Look) -> bool:
        """The run ended without the certificate: its output says why."""
        with transaction(self._pool) as conn:
            dry_run = bool(outcomes.read_attempt(conn, flight.job).spec.get("dry_run"))
        output = self._collect(flight)
        reading = read_run(output)
        finding = reading.main
        if dry_run and finding.code is None and look.exit_code == 0:
            self._pass_dry_run(flight)
            return True
        code, message = finding.code, finding.message
        if code is Code.OUT_OF_MEMORY and look.exit_code == _KILLED and not look.out_of_memory:
            code, message = Code.INTERRUPTED, _KILLED_WORDS
        if code is None:
            code, message = _without_certificate(output, flight.job.domain)
        if code is Code.ACCOUNT_PAUSED:
            message = _with_link(message, output)
        closing = protocol.close_after_reading(code, order_made=_order_made(output))
        evidence = _evidence(finding)
        fate = OrderFate.NOT_MADE if dry_run else closing.fate or OrderFate.UNKNOWN
        failed = failed_names(reading.findings, flight.job.names)
        closed = ClosedAttempt("failed", code, look.exit_code, "\n".join(evidence), fate, failed)
        beside = frozenset(one.code for one in reading.findings if one.code is not None)
        self._endings.problem(
            flight, Problem(code, message, finding.names, finding.retry_at, evidence, beside), closed
        )
        return False

    def _pass_dry_run(self, flight: Flight) -> None:
        with transaction(self._pool) as conn:
            job = claims.hold(conn, flight.job.claim)
            outcomes.close_and_go_on(
                conn, job, ClosedAttempt("dry run passed", exit_code=0, fate=OrderFate.NOT_MADE)
            )
            flight.job = claims.hold(conn, flight.job.claim)

    def _close_interrupted(self, flight: Flight, action: protocol.CloseFailed, look: Look) -> None:
        assert action.code is not None
        assert action.fate is not None
        what = "The server rebooted while certbot ran." if look.rebooted else _KILLED_WORDS
        closed = ClosedAttempt("dead", action.code, evidence=what, fate=action.fate)
        self._endings.problem(flight, Problem(action.code, what), closed)

    def _why_unserved(self, flight: Flight, look: Look, names: Sequence[str]) -> tuple[Code, str] | None:
        agent, server = flight.agent, flight.job.server
        assert agent is not None
        assert look.certificate_pem is not None
        certificate = certificate_from_pem(look.certificate_pem)
        some = names[:_NAMES_ASKED_ABOUT]
        try:
            facts = parse_server_facts(agent.inspect())
            loaded = loaded_names(agent, some, certificate)
        except EdgeError as error:
            log.warning("unserved.not_explained", job=flight.job_id, reason=error.message)
            return None
        return why_unserved(
            some,
            flight.job.domain,
            address=address_of(server.host),
            nginx=parse_nginx_config(facts.nginx_config),
            nginx_running=facts.nginx_running,
            loaded=loaded,
        )

    def _collect(self, flight: Flight) -> RunOutput:
        assert flight.agent is not None
        return flight.agent.collect(flight.job_id, flight.job.attempt)


def _with_link(message: str, output: RunOutput) -> str:
    """The catalogue tells the operator to open the link in the message."""
    link = unpause_link((output.debug_log, output.stderr, output.stdout))
    return f"{message} Confirm at {link}" if link else message


def _evidence(finding: Finding) -> tuple[str, ...]:
    return tuple(line.text for line in finding.evidence)


def _without_certificate(output: RunOutput, cert_name: str) -> tuple[Code, str]:
    """Certbot says that it went well, and the lineage has no certificate."""
    saved = f"/live/{cert_name}-0"
    if saved in output.stdout:
        message = (
            f"certbot saved the certificate under another name ({cert_name}-0001 or so): its files for {cert_name} are"
            " damaged."
        )
        return Code.LINEAGE_BROKEN, message
    return Code.INTERNAL, "certbot reports success, but there is no certificate for these names."


def _order_made(output: RunOutput) -> bool | None:
    """Whether the CA made an order: its log shows the order's URL after `newOrder` (RFC 8555 7.4). None: no log."""
    if not output.debug_log:
        return None
    return "/order/" in output.debug_log or '"finalize"' in output.debug_log
