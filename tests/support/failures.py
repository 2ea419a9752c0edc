"""States of the world in which no certificate can come, gone through on the real lab: broken, told, mended, active.

A group of states is gone through at once, each with a site of its own and, where it breaks a server, a server of its
own; what was seen of each is kept, and the tests look at it. Time is moved, never slept through.
"""

import contextlib
import json
import threading
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import cycle
from pathlib import Path
from typing import Any

import pika

from contracts.catalogue import CATALOGUE
from contracts.codes import Code, Policy
from db import clock
from db.pool import now as database_now
from deploy.lab.lab import Lab
from deploy.lab.server import CustomerServer
from tests.support.cli import Cli
from tests.support.installation import CERTPILOT, DemoSite, Event, Installation, new_site, orders_of
from tests.support.waiting import until
from workers.core.model import JobState

TOLD_SECONDS = 120.0
"""Deadline of everything that a group waits for; a quiet machine needs a tenth of it."""

EPOCH = datetime.fromtimestamp(0, UTC)
MINUTE = timedelta(minutes=1)
_letters_in_hand = threading.Lock()  # who reads a queue's letters keeps them from everybody else
_SOON = timedelta(minutes=10)
_LATENCY = timedelta(seconds=3)
"""Between a decision and its row, on a machine that is busy with twenty servers."""


@dataclass
class Case:
    """One state, being gone through.

    Attributes:
        kept: what `break_it` leaves for `mend`.
        ended: its job has ended once, and was given another chance.
    """

    lab: Lab
    certpilot: Installation
    site: DemoSite
    kept: dict[str, Any] = field(default_factory=dict)
    ended: bool = False

    @property
    def server(self) -> CustomerServer:
        return self.site.server

    @property
    def domain(self) -> str:
        return self.site.domain


Step = Callable[[Case], object]


def nothing(_: Case) -> None:
    """Where there is nothing to do."""


@dataclass(frozen=True)
class Trouble:
    """One state.

    Attributes:
        name: what is wrong, a sentence.
        code: what certpilot must call it.
        break_it: brings it about, before the command.
        mend: ends it; then the job must go through without another command.
        says: words that the message must hold; `{domain}`, `{alias}`, `{host}` are filled in.
        strike: what happens once the job's certbot has been asked for.
        orders: how many the CA takes before the mend.
        orders_after: and until the end.
        attempts: counted before the mend.
        aliases: of the site.
        own_server: it breaks a server.
        disk_megabytes: of that server.
        request: fields of the command that differ; made when the site is known.
        waits: by which time it waits: (at least, at most) after now; None: by its policy.
        ends: the state in which the job ends at once instead of waiting. After the mend a dead one is replayed, as its
            fix says; for a failed one another command is sent.
    """

    name: str
    code: Code
    break_it: Step
    mend: Step
    says: tuple[str, ...] = ()
    strike: Step = nothing
    orders: int = 0
    orders_after: int = 1
    attempts: int = 0
    aliases: int = 0
    own_server: bool = False
    disk_megabytes: int = 512
    request: Callable[[Case], Mapping[str, Any]] = lambda _: {}
    waits: tuple[timedelta, timedelta] | None = None
    ends: JobState | None = None

    def __str__(self) -> str:
        return self.name

    @property
    def first_wait(self) -> tuple[timedelta, timedelta]:
        """How long the first wait is, by the schedule of its policy (workers/core/deciding/retry.py)."""
        if self.waits is not None:
            return self.waits
        return {
            Policy.RECHECK: (MINUTE, MINUTE),
            Policy.ADMIN: (MINUTE, MINUTE),
            Policy.BACK_OFF: (0.75 * MINUTE, 1.25 * MINUTE),
            Policy.SNOOZE: (MINUTE, 2 * MINUTE),
        }[CATALOGUE[self.code].policy]


@dataclass
class Story:
    """What was seen of one state.

    Attributes:
        trouble: the state.
        case: its site and server.
        told: the event that tells it; None where it did not come.
        view: the site's row then.
        orders: that the CA had taken by then.
        letters: the dead letters about its job then.
        feed: the whole feed at the end.
        view_after: the site's row at the end.
        orders_after: orders by the end.
        failed: what went wrong on the way, for the tests' message.
    """

    trouble: Trouble
    case: Case
    told: Event | None = None
    view: dict[str, Any] = field(default_factory=dict)
    orders: int = 0
    letters: list["Letter"] = field(default_factory=list)
    feed: list[Event] = field(default_factory=list)
    view_after: dict[str, Any] = field(default_factory=dict)
    orders_after: int = 0
    failed: str = ""

    @property
    def text(self) -> str:
        return f"{self.trouble.name}\n{self.failed}\n{self.case.certpilot.story(self.case.site)}"

    @contextmanager
    def noting(self) -> Iterator[None]:
        """What goes wrong with one state is told by its own test, and does not end the others."""
        if self.failed:
            yield
            return
        try:
            yield
        except Exception:  # noqa: BLE001  # kept for the test
            self.failed = traceback.format_exc()


class Servers:
    """Servers of a group: a few that many states share, and fresh ones for states that break theirs."""

    def __init__(self, lab: Lab, *, shared: Sequence[CustomerServer]) -> None:
        self._lab = lab
        self._shared = cycle(shared)
        self._own: list[CustomerServer] = []
        self._lock = threading.Lock()
        self._changing: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def changing(self, server: CustomerServer) -> threading.Lock:
        """To be held while a server's files are changed: nginx must not load what another one is writing."""
        with self._lock:
            return self._changing[server.name]

    def take(self, trouble: Trouble) -> CustomerServer:
        """A server for this state."""
        if not trouble.own_server:
            with self._lock:
                return next(self._shared)
        return self.fresh(disk_megabytes=trouble.disk_megabytes)

    def fresh(self, *, disk_megabytes: int = 512) -> CustomerServer:
        """A server that nobody else has."""
        server = self._lab.add_server(disk_megabytes=disk_megabytes)
        with self._lock:
            self._own.append(server)
        return server

    def close(self) -> None:
        """Switch the fresh ones off; the lab of the other tests does not know them."""
        for server in self._own:
            server.stop()
            with contextlib.suppress(ValueError):
                self._lab.servers.remove(server)


@contextmanager
def all_roles(certpilot: Installation, log: Path, **settings: str) -> Iterator[None]:
    """Every role in a process of its own: the lab's DNS and CA answer from ours, and must not wait for its threads."""
    with certpilot.process(CERTPILOT, "run", "all", log=log, **settings) as process:
        yield
        process.terminate()
        assert process.wait(60) == 0, log.read_text()[-3000:]
    bugs = [line for line in log.read_text().splitlines() if "internal_error" in line]
    assert not bugs, log.read_text()[-3000:]


@contextmanager
def borrowed_servers(lab: Lab) -> Iterator[Servers]:
    """Servers for a group; the shared ones are the lab's own."""
    servers = Servers(lab, shared=tuple(lab.servers))
    try:
        yield servers
    finally:
        servers.close()


def go_through(
    lab: Lab, certpilot: Installation, servers: Servers, troubles: Sequence[Trouble]
) -> dict[str, Story]:
    """Bring every state about, let certpilot tell it, mend it, and see the site become active.

    Returns:
        What was seen, by the state's name.
    """
    with ThreadPoolExecutor(len(troubles), "state") as threads:

        def each(step: Callable[[Story], None], some: Sequence[Story]) -> None:
            def noted(story: Story) -> None:
                with story.noting():
                    if not story.failed:
                        step(story)

            list(threads.map(noted, some))

        stories = list(threads.map(lambda trouble: _set_up(lab, certpilot, servers, trouble), troubles))
        # The servers boot and break at once; the commands come together, as on a busy day.
        each(_ask, stories)
        each(_listen, stories)
        each(lambda story: _mend(servers, story), stories)
        each(_see_it_through, [story for story in stories if story.trouble.ends])
        for due in _by_due(stories):
            # Where telling took long some have been looked at again meanwhile, and wait longer now.
            views = [certpilot.view(story.case.site) for story in due]
            move_to(lab, certpilot, max(view["retry_at"] or EPOCH for view in views))
            each(_see_it_through, due)
    return {story.trouble.name: story for story in stories}


def _set_up(lab: Lab, certpilot: Installation, servers: Servers, trouble: Trouble) -> Story:
    server = servers.take(trouble)
    with servers.changing(server):
        story = Story(trouble, Case(lab, certpilot, new_site(lab, aliases=trouble.aliases, server=server)))
        with story.noting():
            trouble.break_it(story.case)
    return story


def _ask(story: Story) -> None:
    case = story.case
    case.certpilot.issue(case.site, **story.trouble.request(case))


def _listen(story: Story) -> None:
    case, certpilot = story.case, story.case.certpilot
    if story.trouble.strike is not nothing:
        story.trouble.strike(case)
    story.told = _first(case, "waiting") if story.trouble.ends is None else _end_of(case)
    story.view = certpilot.view(case.site)
    story.orders = len(orders_of(case.lab, case.site))
    if story.trouble.ends is JobState.DEAD:
        read = letters_about
        story.letters = until(lambda: read(certpilot, story.view["job_id"]), what="the letter")
    elif story.trouble.ends:
        story.letters = letters_about(certpilot, story.view["job_id"])


def _end_of(case: Case) -> Event:
    def look() -> Event | None:
        return next((event for event in case.certpilot.feed(case.site) if event.status == "none"), None)

    return until(look, seconds=TOLD_SECONDS, what="the job's end")


def _first(case: Case, what: str) -> Event:
    """The first event with that step or status; the end of the job is the end of the waiting."""

    def look() -> Event | None:
        for event in case.certpilot.feed(case.site):
            if what in (event.step, event.status):
                return event
            done = event.status not in (None, "pending")
            assert not done or case.ended, f"the job ended before {what!r}"
        return None

    return until(look, seconds=TOLD_SECONDS, what=what)


def _mend(servers: Servers, story: Story) -> None:
    with servers.changing(story.case.server):
        story.trouble.mend(story.case)
    if story.trouble.ends:
        story.case.ended = True
        replay(story.case) if story.trouble.ends is JobState.DEAD else _ask(story)


def _see_it_through(story: Story) -> None:
    case, certpilot = story.case, story.case.certpilot
    _first(case, "active")
    story.feed = certpilot.settled_feed(case.site)
    story.view_after = certpilot.view(case.site)
    story.orders_after = len(orders_of(case.lab, case.site))


def _by_due(stories: Sequence[Story]) -> list[list[Story]]:
    """Those that are due within minutes together, then the others one after the other."""
    told = sorted(
        (story for story in stories if not story.failed and story.view.get("retry_at")),
        key=lambda story: story.view["retry_at"],
    )
    groups: list[list[Story]] = []
    for story in told:
        if groups and story.view["retry_at"] - groups[-1][0].view["retry_at"] < _SOON:
            groups[-1].append(story)
        else:
            groups.append([story])
    return groups


def move_to(lab: Lab, certpilot: Installation, instant: datetime) -> None:
    """Move certpilot's clock, and the CA's with it, to just behind an instant."""
    now = database_now(certpilot.conn)
    by = max(instant - now, timedelta(0)) + timedelta(seconds=1)
    lab.ca.production.offset_seconds += by.total_seconds()
    lab.ca.staging.offset_seconds += by.total_seconds()
    clock.move_ahead(certpilot.conn, by)


@contextmanager
def ca_clock_put_back(lab: Lab) -> Iterator[None]:
    """The CA's clock for limits as it was, at the end."""
    doors = lab.ca.production, lab.ca.staging
    before = [door.offset_seconds for door in doors]
    try:
        yield
    finally:
        for door, offset in zip(doors, before, strict=True):
            door.offset_seconds = offset


# --- what every state must fulfil -----------------------------------------------------------------------------------


def check_told(story: Story) -> None:
    """Code, the catalogue's fix, the time of the next look, status and job state, in the view and in the feed."""
    trouble, view = story.trouble, story.view
    detail, error = _check_error(story)
    assert (view["ssl_status"], view["job_state"]) == ("pending", "waiting"), story.text
    assert _instant(detail["retryAt"]) == _instant(error["retryAt"]) == view["retry_at"]
    least, most = trouble.first_wait
    # The row was last changed by the transaction that decided; its clock is the database's.
    wait = view["retry_at"] - view["updated_at"]
    assert least - _LATENCY <= wait <= most + _LATENCY, (wait, story.text)
    assert story.told is not None
    assert story.told.title.startswith("Waiting: "), story.told.title


def check_ended(story: Story) -> None:
    """Code and fix at once, the status put back at once, one end; a letter only where somebody of ours must act."""
    trouble, view = story.trouble, story.view
    _, error = _check_error(story)
    assert (view["ssl_status"], view["job_state"]) == ("none", trouble.ends), story.text
    assert (error["retryAt"], view["retry_at"]) == (None, None)
    before = [event for event in story.feed if event.sequence <= (story.told.sequence if story.told else 0)]
    changes = [event.status for event in before if event.kind == "ssl.status.changed"]
    assert changes == ["pending", "none"], story.text
    failed = before[-2]
    assert (failed.step, failed.code) == ("failed", trouble.code)
    wanted = [trouble.code] if trouble.ends is JobState.DEAD else []
    assert [letter.code for letter in story.letters] == wanted


def _check_error(story: Story) -> tuple[dict[str, Any], dict[str, Any]]:
    trouble, site, view = story.trouble, story.case.site, story.view
    assert story.told is not None, story.text
    detail = story.told.detail
    error = detail["error"]
    assert error["code"] == trouble.code, story.text
    assert error["fix"] == CATALOGUE[trouble.code].fix
    words = {"domain": site.domain, "alias": next(iter(site.aliases), ""), "host": site.server.host}
    for say in trouble.says:
        assert say.format(**words) in error["message"], story.text
    assert (view["error_code"], view["error_message"]) == (trouble.code, error["message"])
    assert (story.orders, view["attempt"]) == (trouble.orders, trouble.attempts), story.text
    return detail, error


def check_mended(story: Story) -> None:
    """Once mended the job went through by itself: no second command, one end, a gapless feed, as few orders as can be."""
    assert not story.failed, story.text
    view, feed = story.view_after, story.feed
    assert (view["ssl_status"], view["job_state"]) == ("active", "succeeded"), story.text
    assert (view["error_code"], view["retry_at"]) == (None, None)
    changes = [event for event in feed if event.kind == "ssl.status.changed"]
    told = ["pending", "none"] if story.trouble.ends else []
    assert [change.status for change in changes] == [*told, "pending", "active"], story.text
    assert changes[-1] is feed[-1]
    assert changes[-1].detail["error"] is None
    assert [event.sequence for event in feed] == list(range(1, len(feed) + 1))
    commands = dict.fromkeys(event.detail["commandId"] for event in feed)
    assert len(commands) == (2 if story.trouble.ends is JobState.FAILED else 1), (commands, story.text)
    assert story.orders_after == story.trouble.orders_after, story.text


@dataclass(frozen=True)
class Letter:
    """A dead letter about a job."""

    job_id: str
    code: str
    reason: str


def replay(case: Case) -> None:
    """Give the site's dead job a second chance, as an operator does."""
    cli = Cli(**case.certpilot.environment())
    with _letters_in_hand:
        done = cli("dlq", "replay", "--queue", "ssl.jobs", "--site", case.site.site_id, "--by", "an operator")
    assert done.code == 0, done.out + done.err


def letters_about(certpilot: Installation, job_id: object) -> list[Letter]:
    """The letters about a job in `ssl.jobs.dlq`, read by plain pika and left there."""
    found = []
    with _letters_in_hand:
        connection = pika.BlockingConnection(pika.URLParameters(certpilot.rabbitmq_url))
        channel = connection.channel()
        while (got := channel.basic_get("ssl.jobs.dlq"))[0] is not None:
            _, properties, body = got
            headers = properties.headers
            letter = Letter(
                json.loads(body)["job_id"], headers["certpilot-code"], headers["certpilot-reason"]
            )
            found.append(letter)
        connection.close()  # what was not acknowledged goes back
    return [letter for letter in found if letter.job_id == str(job_id)]


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text)


def wait_for_certbot(case: Case) -> None:
    """Until a certbot runs on the case's server."""
    until(lambda: case.server.cell.processes("certbot"), seconds=TOLD_SECONDS, what="certbot")
