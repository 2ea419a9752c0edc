"""What operators do with dead letters: look, replay, discard (DESIGN A.9). Letters are settled after their effect.

They go in batches, each told in the activity feed with who did it: with its effect in one transaction, or after its
confirms, so that a replay that is killed half-way leaves none untold but its last.

A replay or discard that is interrupted leaves the rest where it lies; one whose last step was lost is done again by the
next and finds it done: the inbox drops a command that was taken, a job is not dead any more, the feed drops an event's copy.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from typing import Any, Literal

from contracts import topology
from contracts.commands import read_command
from contracts.envelope import SetAside
from contracts.events import read_event
from db import pool, replays, sites
from db.jobs import Offer
from db.pool import Connection
from db.replays import Discarded, LetterJob
from workers import announce
from workers.announce import About
from workers.core.deciding import lifecycle
from workers.core.deciding.letter_filter import LetterFacts, LetterFilter
from workers.core.model import JobId, SslStatus, Step
from workers.dispatch import REOFFER_SECONDS, offer
from workers.edges.amqp.dead_letter_queue import DeadLetterBrowser, Letter
from workers.edges.amqp.outgoing import OutgoingMessage, PublishResult
from workers.edges.amqp.publisher import Publisher

BATCH = 100
"""Letters of one transaction, or of one window of confirms."""
# Only what a broker must not see again: it counts deaths by these (FACTS-rabbitmq4 6).
_DROPPED_HEADERS = ("x-death", "x-first-death-", "x-last-death-", "x-delivery-count", "x-acquired-count")


class Effect(StrEnum):
    """What became of a letter."""

    REPLAYED = "replayed"
    SUPERSEDED = "superseded"  # a newer job has taken its place: the letter is removed
    DONE_ALREADY = "done already"  # its job is not dead any more in that epoch: the letter is removed
    DISCARDED = "discarded"
    NOT_CONFIRMED = "not confirmed"  # the broker did not take it; the letter stays


@dataclass(frozen=True, slots=True)
class Operator:
    """Who acts on letters, and why."""

    name: str
    reason: str | None


@dataclass(frozen=True, slots=True)
class Found:
    """A letter with what is known of it."""

    letter: Letter
    facts: LetterFacts
    job: LetterJob | None = None


def find(
    conn: Connection, browser: DeadLetterBrowser, wanted: LetterFilter, most: int | None
) -> Iterator[Found]:
    """The letters of a queue that are meant, with the jobs behind them read in batches."""
    found = (one for one in _with_facts(conn, browser) if wanted.matches(one.facts))
    return islice(found, most)


def _with_facts(conn: Connection, letters: Iterable[Letter]) -> Iterator[Found]:
    everything = iter(letters)
    while batch := list(islice(everything, BATCH)):
        ids = {
            letter.delivery.tag: _job_id(letter) for letter in batch if letter.queue == topology.JOBS_QUEUE
        }
        known = replays.jobs_of_letters(conn, [one for one in ids.values() if one]) if ids else {}
        for letter in batch:
            job = known.get(ids.get(letter.delivery.tag) or "")
            site_id, domain = (job.site_id, job.domain) if job else _about(letter)
            facts = LetterFacts(letter.queue, letter.letter_id, letter.code, letter.first_at, site_id, domain)
            yield Found(letter, facts, job)


def _job_id(letter: Letter) -> str | None:
    document = _json(letter.delivery.body)
    value = document.get("job_id")
    return value if isinstance(value, str) and len(value) == 36 else None  # noqa: PLR2004  # a UUID's text


def _about(letter: Letter) -> tuple[str | None, str | None]:
    """Site and domain of a command or event, as far as it can be read at all."""
    delivery = letter.delivery
    try:
        if letter.queue == topology.ACTIVITY_QUEUE:
            event = read_event(delivery.body)
            return event.site_id, event.domain
        command = read_command(delivery.body, delivery.content_type, delivery.content_encoding)
    except SetAside as problem:
        return problem.site_id, None
    return command.site_id, command.domain


def _json(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def replay(conn: Connection, publisher: Publisher, batch: Sequence[Found], who: Operator) -> list[Effect]:
    """Give letters of one queue their second chance; the caller removes those that are not NOT_CONFIRMED.

    Returns:
        What became of each, in their order.

    Raises:
        DatabaseError: no job was replayed; a command or event may have been published. The letters stay.
        BrokerError: they may or may not have been published; the letters stay.
    """
    queue = batch[0].letter.queue
    if queue == topology.JOBS_QUEUE:
        with conn.transaction():
            effects = _replay_jobs(conn, batch)
            _tell(conn, "replay", who, queue, effects.count(Effect.REPLAYED))
        return effects
    results = publisher.publish_batch([_again(found.letter) for found in batch])
    effects = [
        Effect.REPLAYED if result is PublishResult.CONFIRMED else Effect.NOT_CONFIRMED for result in results
    ]
    with conn.transaction():
        _tell(conn, "replay", who, queue, effects.count(Effect.REPLAYED))
    return effects


def _tell(
    conn: Connection, action: Literal["replay", "discard"], who: Operator, queue: str, count: int
) -> None:
    if count:
        announce.operator_action(conn, action, by=who.name, reason=who.reason, queue=queue, count=count)


def _again(letter: Letter) -> OutgoingMessage:
    """A command under its old routing key; an event to `ssl.activity` alone, since others had it already."""
    delivery = letter.delivery
    is_event = letter.queue == topology.ACTIVITY_QUEUE
    headers = {key: value for key, value in delivery.headers.items() if not key.startswith(_DROPPED_HEADERS)}
    return OutgoingMessage(
        exchange=topology.DEFAULT_EXCHANGE if is_event else topology.COMMANDS_EXCHANGE,
        routing_key=topology.ACTIVITY_QUEUE if is_event else letter.routing_key,
        body=delivery.body,
        message_id=delivery.message_id or letter.letter_id,
        content_type=delivery.content_type,
        headers=headers,
    )


def _replay_jobs(conn: Connection, batch: Sequence[Found]) -> list[Effect]:
    """All in the caller's transaction; sites in their order, so that two replays never wait for each other."""
    effects = dict.fromkeys(range(len(batch)), Effect.DONE_ALREADY)
    offers: list[Offer] = []
    for number in sorted(effects, key=lambda one: job.site_id if (job := batch[one].job) else ""):
        offered, effects[number] = _replay_job(conn, batch[number])
        offers += offered
    offer(conn, offers)
    return list(effects.values())


def _replay_job(conn: Connection, found: Found) -> tuple[list[Offer], Effect]:
    epoch, job = _json(found.letter.delivery.body).get("epoch"), found.job
    if job is None or not isinstance(epoch, int):
        return [], Effect.DONE_ALREADY
    over = Effect.SUPERSEDED if job.superseded_by else Effect.DONE_ALREADY
    if (job.state, job.epoch) != ("dead", epoch):
        return [], over
    # The site before the job, as intake does.
    site = sites.lock(conn, job.site_id)
    offered = replays.replay_job(conn, job.job_id, epoch, REOFFER_SECONDS)
    if offered is None:
        return [], over
    about = About(job.site_id, job.command_id, job.command_source, JobId(job.job_id))
    own = lifecycle.own_certificate_of(site)
    status = lifecycle.status_when_admitted(site.ssl_status, own, pool.real_now(conn))
    if site.job is not None and site.job.job_id == job.job_id and status is not site.ssl_status:
        sites.set_status(conn, job.site_id, SslStatus(status))
        announce.status_changed(conn, about, previous=site.ssl_status)
    announce.progress(conn, about, Step.QUEUED, "An operator has replayed the request.")
    return [offered], Effect.REPLAYED


def discard(conn: Connection, batch: Sequence[Found], who: Operator) -> None:
    """Keep copies of letters of one queue in the database; the caller removes the letters afterwards.

    Raises:
        DatabaseError: nothing was kept; the letters stay.
    """
    with conn.transaction():
        _keep(conn, batch, who.name)
        _tell(conn, "discard", who, batch[0].letter.queue, len(batch))


def _keep(conn: Connection, batch: Sequence[Found], by: str) -> None:
    replays.keep_copies(
        conn,
        [
            Discarded(
                one.letter.letter_id, one.letter.queue, one.letter.code, one.letter.reason,
                {key: _storable(value) for key, value in one.letter.delivery.headers.items()}, one.letter.delivery.body,
            )
            for one in batch
        ],
        by,
    )  # fmt: skip


def _storable(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool) or value is None else repr(value)
