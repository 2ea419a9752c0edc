"""Role intake: a command becomes a job, or a rejection, or a dead letter; in one transaction, acknowledged after it.

It does nothing slow, so `pending` is visible within milliseconds of publishing, however busy the runners are.
"""

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from uuid import uuid4

from contracts.codes import Code
from contracts.commands import IssueSSL, ReadCommand, Rejection, RemoveSSL, RenewSSL, ServerRef, read_command
from contracts.envelope import SetAside
from contracts.topology import COMMANDS_QUEUE, LETTER_ID_HEADER
from db import deliveries, inbox, jobs, pool, sites
from db.inbox import Taken
from db.jobs import NewJob
from db.pool import Connection, DatabaseError, OperationalError, Pool, transaction
from workers import announce, letters, logs, metrics, removals
from workers.announce import About
from workers.core.deciding.admission import Admitted, Joined, Rejected, Request, admit
from workers.core.model import JobId, JobKind, Problem, Server, Site, SslStatus, Step
from workers.dispatch import REOFFER_SECONDS, offer
from workers.edges.amqp.delivery_stream import Delivery
from workers.edges.short_retry import with_short_retry
from workers.letters import Cause

log = logs.get(__name__)

PREFETCH = 50
_CRASHES_BEFORE_SETTING_ASIDE = 3


class Intake:
    """Handles deliveries of `ssl.commands`."""

    def __init__(self, db_pool: Pool) -> None:
        self._pool = db_pool
        self._excused: set[str] = set()

    def handle(self, deliveries_: Sequence[Delivery]) -> None:
        """Handle a batch, each command in its own transaction.

        Raises:
            DatabaseError: nothing of that command was written; the broker delivers it again.
        """
        self._forgive_excused()
        for delivery in deliveries_:
            if delivery.redelivered and self._crashed_too_often(delivery):
                continue
            try:
                with transaction(self._pool) as conn:
                    take(conn, delivery)
                    if delivery.redelivered:
                        # A whole batch comes again because of the one in it that kills: the others are not to be
                        # counted for being handled before it.
                        deliveries.forgive(conn, COMMANDS_QUEUE, _digest(delivery))
            except DatabaseError:
                self._excused.add(_digest(delivery))
                # At once where that works: the next to get it may be another process.
                with suppress(DatabaseError):
                    with_short_retry(self._forgive_excused, OperationalError)
                raise
            metrics.COMMANDS.inc()

    def _forgive_excused(self) -> None:
        """What came back because the database was in trouble killed nobody, whichever process has it now."""
        if self._excused:
            with transaction(self._pool) as conn:
                for digest in self._excused:
                    deliveries.forgive(conn, COMMANDS_QUEUE, digest)
            self._excused.clear()

    def _crashed_too_often(self, delivery: Delivery) -> bool:
        """Count a redelivered body before it is looked into: what killed its process three times is set aside.

        Only redelivered ones, so that the ordinary path costs no round trip.
        """
        digest = _digest(delivery)
        with transaction(self._pool) as conn:
            starts = deliveries.count_start(conn, COMMANDS_QUEUE, digest)
            if starts < _CRASHES_BEFORE_SETTING_ASIDE:
                return False
            reason = f"the process that read it died {starts} times in a row"
            letters.set_aside_command(conn, delivery, Cause(Code.CRASHED, reason, pool.now(conn)))
            deliveries.forgive(conn, COMMANDS_QUEUE, digest)
        log.error("command.crashed", letter=digest)
        return True


def take(conn: Connection, delivery: Delivery) -> None:
    """Decide what the message is and write it down; the caller's transaction makes it one step."""
    if delivery.redelivered:
        deliveries.forgive(conn, COMMANDS_QUEUE, _digest(delivery))
    try:
        _check_readable(delivery)
        command = read_command(delivery.body, delivery.content_type, delivery.content_encoding)
    except SetAside as problem:
        _set_aside(conn, delivery, problem)
        return
    if command.rejection is not None and command.rejection.code is Code.INVALID_REQUEST:
        _set_aside_invalid(conn, delivery, command, command.rejection)
        return
    assert command.site_id is not None
    taken = inbox.take(conn, command.source, command.command_id, command.body_hash)
    if taken is Taken.NEW:
        _decide(conn, delivery, command, command.site_id)
    elif taken is Taken.CONFLICT:
        _reject_duplicate(conn, command.source, command.command_id, command.site_id, command.domain)


def _decide(conn: Connection, delivery: Delivery, command: ReadCommand, site_id: str) -> None:
    about = About(site_id, command.command_id, command.source)
    site = sites.lock(conn, site_id)
    if command.command is None:
        assert command.rejection is not None
        problem = Problem(command.rejection.code, command.rejection.message)
        announce.rejected(conn, about, problem, domain=command.domain)
        return
    if isinstance(command.command, RemoveSSL):
        removals.remove(conn, about, site, command.command)
        return
    decision = admit(_request(command.command), site, pool.now(conn), real_now=pool.real_now(conn))
    match decision:
        case Rejected():
            problem = Problem(decision.code, decision.message, retry_at=decision.retry_at)
            announce.rejected(conn, about, problem, domain=command.domain)
            if decision.code is Code.INVALID_REQUEST:
                cause = Cause(decision.code, decision.message, pool.now(conn))
                letters.set_aside_command(conn, delivery, cause)
        case Joined():
            _join(conn, about, decision)
        case Admitted():
            _admit(conn, about, decision, site, command.command)


def _join(conn: Connection, about: About, decision: Joined) -> None:
    """The command joins a job that waits for something a person mends: it checks now."""
    if decision.server is not None:
        sites.set_server(conn, about.site_id, decision.server)
    due = jobs.check_now(conn, decision.job_id, decision.server, REOFFER_SECONDS)
    offer(conn, [due] if due else [])
    joined = About(about.site_id, about.command_id, about.command_source, decision.job_id)
    announce.progress(conn, joined, Step.QUEUED, "Checking now.")


def _admit(
    conn: Connection, about: About, decision: Admitted, site: Site, command: IssueSSL | RenewSSL
) -> None:
    job_id = JobId(str(uuid4()))
    if decision.supersedes is not None:
        removals.supersede(conn, about.site_id, decision.supersedes, job_id)
    # Written without waiting for each answer in turn: `pending` is what a person waits for.
    with conn.pipeline():
        queued = jobs.insert(
            conn,
            NewJob(
                job_id, about.site_id, decision.kind, decision.names, decision.server, decision.force,
                about.command_id, about.command_source, command.requested_by, decision.serial_known,
            ),
            REOFFER_SECONDS,
        )  # fmt: skip
        sites.set_request(
            conn, about.site_id, domain=decision.domain, aliases=decision.names[1:], server=decision.server,
            job_id=job_id, status=decision.status,
        )  # fmt: skip
        admitted = About(about.site_id, about.command_id, about.command_source, job_id)
        if decision.status is SslStatus.PENDING and site.ssl_status is not SslStatus.PENDING:
            announce.status_changed(conn, admitted, previous=site.ssl_status)
        announce.progress(conn, admitted, Step.QUEUED, "Waiting for a free runner.")
        offer(conn, [queued])


def _set_aside(conn: Connection, delivery: Delivery, problem: SetAside) -> None:
    letters.set_aside_command(conn, delivery, Cause(problem.code, problem.reason, pool.now(conn)))
    log.warning("command.set_aside", code=str(problem.code), reason=problem.reason)
    if problem.rejectable and problem.source and problem.command_id and problem.site_id and problem.body_hash:
        _reject_invalid(
            conn,
            (problem.source, problem.command_id, problem.body_hash),
            problem.site_id,
            problem.reason,
            None,
        )


def _set_aside_invalid(
    conn: Connection, delivery: Delivery, command: ReadCommand, rejection: Rejection
) -> None:
    """INVALID_REQUEST: a dead letter, and a rejection where the site is known; each once per body (DESIGN A.9)."""
    if command.site_id is not None and not _is_replay(delivery):
        taken = inbox.take(conn, command.source, command.command_id, command.body_hash)
        if taken is Taken.CONFLICT:
            _reject_duplicate(conn, command.source, command.command_id, command.site_id, command.domain)
        if taken is not Taken.NEW:
            return
        announce.rejected(
            conn,
            About(command.site_id, command.command_id, command.source),
            Problem(Code.INVALID_REQUEST, rejection.message),
            domain=command.domain,
        )
    letters.set_aside_command(conn, delivery, Cause(Code.INVALID_REQUEST, rejection.message, pool.now(conn)))


def _reject_invalid(
    conn: Connection, key: tuple[str, str, str], site_id: str, reason: str, domain: str | None
) -> None:
    source, command_id, body_hash = key
    taken = inbox.take(conn, source, command_id, body_hash)
    if taken is Taken.NEW:
        problem = Problem(Code.INVALID_REQUEST, reason)
        announce.rejected(conn, About(site_id, command_id, source), problem, domain=domain)
    elif taken is Taken.CONFLICT:
        _reject_duplicate(conn, source, command_id, site_id, domain)


def _reject_duplicate(
    conn: Connection, source: str, command_id: str, site_id: str, domain: str | None
) -> None:
    message = f"The id {command_id} of {source} was already used for another request."
    announce.rejected(
        conn, About(site_id, command_id, source), Problem(Code.DUPLICATE_ID, message), domain=domain
    )


def _check_readable(delivery: Delivery) -> None:
    if not delivery.readable:
        raise SetAside(Code.MALFORMED, "The message's AMQP properties cannot be read.")


def _digest(delivery: Delivery) -> str:
    return hashlib.sha256(delivery.body).hexdigest()


def _is_replay(delivery: Delivery) -> bool:
    return LETTER_ID_HEADER in delivery.headers


def _request(command: IssueSSL | RenewSSL) -> Request:
    return Request(
        kind=JobKind.ISSUE if isinstance(command, IssueSSL) else JobKind.RENEW,
        site_id=command.site_id,
        domain=command.domain,
        aliases=command.aliases,
        server=_server(command.server) if command.server else None,
        force=isinstance(command, RenewSSL) and command.force,
    )


def _server(server: ServerRef) -> Server:
    return Server(server.host, server.port, server.username, server.host_key, server.public_addresses)
