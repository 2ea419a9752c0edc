"""The doctor's checks of RabbitMQ and PostgreSQL, and of the roles as the two see them."""

from contracts.topology import ACTIVITY_QUEUE, COMMANDS_QUEUE, JOBS_QUEUE
from db import health, migrate, operators, outbox, pool
from db.pool import Connection, DatabaseError, connect
from workers.cli import output
from workers.cli.checks import Check, Checks, failed, note, ok
from workers.cli.trouble import explain
from workers.edges.amqp.broker import BrokerUnavailableError, TopologyError
from workers.edges.amqp.health import BrokerLook
from workers.settings import Settings, without_password

_CLIENT = "certpilot-doctor"
# What was measured; older ones lack quorum queues as we need them, or MATERIALIZED.
_OLDEST_RABBITMQ = (3, 10)
_OLDEST_POSTGRESQL = 13
_MOST_SKEW_SECONDS = 2.0
# A relay publishes within milliseconds and a scheduler ticks each second; this much is no hiccup any more.
_MOST_BACKLOG_SECONDS = 30.0
# Up to the last @ of an authority: a password may hold one that nobody escaped.
_ROLES = {COMMANDS_QUEUE: "intake", JOBS_QUEUE: "runner", ACTIVITY_QUEUE: "activity"}


def check_broker(config: Settings) -> Checks:
    """Check the broker; what cannot be checked without it is left out."""
    where = without_password(config.rabbitmq_url)
    try:
        look = BrokerLook(config.rabbitmq_url, name=_CLIENT)
    except BrokerUnavailableError as error:
        yield failed("broker", f"{where}: {error}", "start RabbitMQ, or set CERTPILOT_RABBITMQ_URL right")
        return
    try:
        product, version = look.product()
        if version and version < _OLDEST_RABBITMQ:
            yield failed("broker", f"{product} at {where}", "upgrade to RabbitMQ 3.10 or later")
        else:
            yield ok("broker", f"{product} at {where}")
        look.declare()
        yield ok("topology", "exchanges, queues and bindings are declared as certpilot needs them")
        yield from _check_queues(look)
    except TopologyError as error:
        yield failed("topology", "not as certpilot needs it", str(error))
    except BrokerUnavailableError as error:
        yield failed("broker", f"the connection was lost: {error}", "see RabbitMQ's log")
    finally:
        look.close()


def _check_queues(look: BrokerLook) -> Checks:
    for queue in look.queues():
        role = _ROLES[queue.name]
        found = f"{_count(queue.consumers, 'consumer')}, {_count(queue.messages, 'message')} waiting"
        if queue.consumers:
            yield ok(queue.name, found)
        else:
            yield failed(queue.name, found, f"start `certpilot run {role}`")
    letters = [queue for queue in look.letters() if queue.messages]
    if letters:
        found = ", ".join(f"{queue.messages} in {queue.name}" for queue in letters)
        yield note("letters", found, "see `certpilot dlq list`")
    else:
        yield ok("letters", "no dead letter")


def check_database(config: Settings) -> Checks:
    """Check the database; what cannot be checked without it, or before its migrations, is left out."""
    where = without_password(config.database_url)
    try:
        with connect(config.database_url, _CLIENT, autocommit=True) as conn:
            yield _check_version(conn, where)
            yield _check_skew(conn)
            migrations = _check_migrations(conn)
            yield migrations
            if migrations.state == "ok":
                yield from _check_tables(conn)
    except DatabaseError as error:
        yield failed(
            "database", f"{where}: {explain(error)}", "start PostgreSQL, or set CERTPILOT_DATABASE_URL right"
        )


def _check_version(conn: Connection, where: str) -> Check:
    major, version = health.version(conn)
    if major < _OLDEST_POSTGRESQL:
        return failed(
            "database", f"PostgreSQL {version} at {where}", f"upgrade to {_OLDEST_POSTGRESQL} or later"
        )
    return ok("database", f"PostgreSQL {version} at {where}")


def _check_skew(conn: Connection) -> Check:
    """Leases and waits go by the database's clock; ours dates logs and judges what servers serve."""
    before = output.now()
    theirs = pool.real_now(conn)
    after = output.now()
    unsure_seconds = (after - before).total_seconds() / 2
    ahead_seconds = (theirs - before).total_seconds() - unsure_seconds
    found = (
        f"the database's is {abs(ahead_seconds):.1f} s {'ahead of' if ahead_seconds > 0 else 'behind'} ours"
    )
    if abs(ahead_seconds) > _MOST_SKEW_SECONDS + unsure_seconds:
        return failed("clocks", found, "let both machines keep time by NTP")
    return ok("clocks", found)


def _check_migrations(conn: Connection) -> Check:
    try:
        missing = migrate.pending(conn)
    except migrate.MigrationError as error:
        return failed("migrations", str(error), "run the version of certpilot that the database is at")
    if missing:
        return failed("migrations", f"missing: {', '.join(missing)}", "run `certpilot migrate`")
    return ok("migrations", f"all {len(migrate.known_migrations())} are there")


def _check_tables(conn: Connection) -> Checks:
    yield _check_reader(conn)
    ahead_by = health.clock_ahead_by(conn)
    if ahead_by:
        yield failed(
            "moved clock",
            f"certpilot's time is {ahead_by} ahead",
            "only tests move it: update clock set ahead_by = '0'",
        )
    yield _check_relay(conn)
    yield _check_outbox(conn)
    yield _check_scheduler(conn)
    for row in operators.pauses(conn):
        what = "everything" if row.scope == "*" else f"server {row.scope}"
        option = "" if row.scope == "*" else f" --server {row.scope}"
        why = f" ({row.reason})" if row.reason else ""
        yield note(
            "paused", f"{what}, by {row.paused_by}{why}", f"`certpilot resume{option}` when that is over"
        )


def _check_reader(conn: Connection) -> Check:
    role = health.reader_role(conn)
    name = health.READER_ROLE
    if not role.exists:
        return failed(
            "reader role",
            f"there is no {name}",
            f"create role {name} nologin; then grant select on the views",
        )
    if role.lacks:
        views = ", ".join(role.lacks)
        return failed("reader role", f"{name} may not read {views}", f"grant select on {views} to {name}")
    if role.exceeds:
        tables = ", ".join(role.exceeds)
        return failed(
            "reader role",
            f"{name} may read more than the views: {tables}",
            f"revoke all on {tables} from {name}",
        )
    return ok("reader role", f"{name} reads the two views and nothing else")


def _check_relay(conn: Connection) -> Check:
    seconds = health.lead_seconds_left(conn, "relay")
    if seconds is not None and seconds > 0:
        return ok("relay", "one leads")
    return failed("relay", "none leads: nothing reaches the broker", "start `certpilot run relay`")


def _check_outbox(conn: Connection) -> Check:
    behind = outbox.backlog(conn)
    if behind.oldest_age_seconds > _MOST_BACKLOG_SECONDS:
        age = output.lasting(behind.oldest_age_seconds)
        return failed(
            "outbox", f"{_count(behind.messages, 'message')} behind, the oldest {age}", "see the relay's log"
        )
    return ok("outbox", f"{_count(behind.messages, 'message')} behind")


def _check_scheduler(conn: Connection) -> Check:
    """A scheduler holds no lease and no queue; it is seen by what it leaves undone."""
    overdue = health.overdue_waits(conn)
    if overdue.longest_seconds > _MOST_BACKLOG_SECONDS:
        found = f"{_count(overdue.overdue_waits, 'job')} overdue by up to {output.lasting(overdue.longest_seconds)}"
        return failed("scheduler", found, "start `certpilot run scheduler`")
    return ok("scheduler", "no wait is overdue")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
