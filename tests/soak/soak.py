"""Certificates of minutes on servers with a live cron, through many lifetimes, while servers and DNS go wrong.

Six sites on three servers. After two lifetimes the first server loses what renews on it, a site of the second is moved in
DNS, and the third is off for a lifetime. What visitors are shown is looked at every second, by handshakes of our own.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from deploy.lab.lab import Lab
from deploy.lab.server import CustomerServer
from tests.support.failures import all_roles
from tests.support.installation import DemoSite, Event, Installation, new_site, shown

SERVERS = 3
SITES_EACH = 2
_CRON_FILE = "/etc/cron.d/certbot"
_CRON_LINE = "* * * * * root certbot -q renew --no-random-sleep-on-renew\n"
_HEALTHY_LIFETIMES = 2
_ORDERS_UNDER_WAY = 1
"""What had passed its preflight when the site moved."""

_GRACE_SECONDS = 2.0
"""What expired less than this ago may have been replaced between the handshake and its judgement."""


@dataclass
class Seen:
    """What visitors of one site were shown.

    Attributes:
        serials: every certificate, with its notAfter.
        lapsed: how long an expired one was shown, or nothing at all; seconds.
        lapses: when that was, for the report.
    """

    serials: dict[int, datetime] = field(default_factory=dict)
    lapsed: float = 0.0
    lapses: list[str] = field(default_factory=list)


@dataclass
class Report:
    """How a soak went.

    Attributes:
        lifetime_seconds: of the certificates.
        lifetimes: how many the soak lasted.
        orders: at the CA, by site.
        certificates: different ones that visitors were shown, by site.
        causes: of the sites whose certificate could not be kept: the risks told before the first expiry.
        complaints: what must not be.
    """

    lifetime_seconds: int
    lifetimes: float
    orders: Counter[str] = field(default_factory=Counter)
    certificates: dict[str, int] = field(default_factory=dict)
    causes: dict[str, list[str]] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)

    def as_text(self) -> str:
        """A line for each site, and what is wrong."""
        lines = [f"{self.lifetimes:.1f} lifetimes of {self.lifetime_seconds} s"]
        lines += [
            f"  {domain}: {self.orders[domain]} orders, {number} certificates shown"
            + (f", told before expiry: {', '.join(self.causes[domain])}" if domain in self.causes else "")
            for domain, number in self.certificates.items()
        ]
        total = sum(self.orders.values())
        lines.append(
            f"  {total} orders = {total / len(self.certificates) / self.lifetimes:.2f} per site and lifetime"
        )
        return "\n".join([*lines, *(f"  WRONG: {one}" for one in self.complaints)])


class Soak:
    """One soak; `run` lasts `lifetimes` times `lifetime_seconds`."""

    def __init__(
        self,
        lab: Lab,
        certpilot: Installation,
        *,
        lifetime_seconds: int,
        lifetimes: float,
        say: Callable[[str], None],
        tolerated_seconds: float = 0.0,
    ) -> None:
        self._lab, self._certpilot, self._say = lab, certpilot, say
        self._lifetime_seconds = lifetime_seconds
        self._lifetimes = lifetimes
        self._tolerated_seconds = tolerated_seconds
        self._seen: dict[str, Seen] = {}
        self._moved_at = datetime.now(UTC)

    def run(self, log: Path) -> Report:
        """Issue, let time pass, put the faults in, mend them, and judge.

        Args:
            log: for what the roles say.
        """
        sites = [
            new_site(self._lab, server=server)
            for server in self._lab.servers[:SERVERS]
            for _ in range(SITES_EACH)
        ]
        with all_roles(self._certpilot, log):
            self._certpilot.issue_all(*sites)
            self._certpilot.wait_until_active(*sites)
            for server in self._lab.servers[:SERVERS]:
                _start_cron(server)
            with self._watching(sites):
                self._live(sites)
        return self._judge(sites)

    def _live(self, sites: list[DemoSite]) -> None:
        began = time.monotonic()
        untended, moved, off = self._lab.servers[0], sites[SITES_EACH], self._lab.servers[2]
        self._sleep_until(began, min(_HEALTHY_LIFETIMES, self._lifetimes / 3))
        self._say("the first server loses its cron job, a site moves in DNS, the third server goes off")
        untended.run(["sh", "-c", f"rm -f {_CRON_FILE} /etc/cron.d/certpilot-renew"])
        self._lab.dns.set_a(moved.domain, untended.host)
        self._moved_at = datetime.now(UTC)
        off.stop()
        self._sleep_until(began, min(_HEALTHY_LIFETIMES, self._lifetimes / 3) + 1)
        self._say("the third server is back")
        off.start()
        _start_cron(off)
        self._sleep_until(began, self._lifetimes)

    def _sleep_until(self, began: float, lifetimes: float) -> None:
        time.sleep(max(0.0, began + lifetimes * self._lifetime_seconds - time.monotonic()))

    # --- a visitor --------------------------------------------------------------------------------------------------

    @contextmanager
    def _watching(self, sites: list[DemoSite]) -> Iterator[None]:
        stop = threading.Event()
        self._seen = {site.domain: Seen() for site in sites}

        def visit() -> None:
            last = time.monotonic()
            while not stop.wait(1.0):
                now, last, since = time.monotonic(), time.monotonic(), last
                for site in sites:
                    self._visit(site, now - since)

        visitor = threading.Thread(target=visit, name="visitor")
        visitor.start()
        try:
            yield
        finally:
            stop.set()
            visitor.join()

    def _visit(self, site: DemoSite, seconds: float) -> None:
        seen = self._seen[site.domain]
        certificate = shown(site.server, site.domain)
        now = datetime.now(UTC)
        if certificate is not None:
            seen.serials[certificate.serial_number] = certificate.not_valid_after_utc
        if certificate is None or (now - certificate.not_valid_after_utc).total_seconds() > _GRACE_SECONDS:
            seen.lapsed += seconds
            seen.lapses.append(f"{now:%H:%M:%S} {'nothing' if certificate is None else 'expired'}")

    # --- the verdict ------------------------------------------------------------------------------------------------

    def _judge(self, sites: list[DemoSite]) -> Report:
        report = Report(self._lifetime_seconds, self._lifetimes)
        moved, off = sites[SITES_EACH], sites[2 * SITES_EACH :]
        unkept = {moved.domain: "DNS_WRONG_SERVER", **{site.domain: "SERVER_UNREACHABLE" for site in off}}
        self._judge_untended(report, sites[:SITES_EACH])
        for site in sites:
            seen, events = self._seen[site.domain], self._certpilot.feed(site)
            report.certificates[site.domain] = len(seen.serials)
            report.orders[site.domain] = len(self._lab.ca.production.orders(site.domain))
            if site.domain not in unkept and seen.lapsed > self._tolerated_seconds:
                report.complaints.append(f"{site.domain} lapsed for {seen.lapsed:.0f} s: {seen.lapses[:5]}")
            if cause := unkept.get(site.domain):
                told, expired = _risks_before_expiry(events)
                report.causes[site.domain] = told
                if expired and cause not in told:
                    story = self._certpilot.story(site)
                    report.complaints.append(
                        f"{site.domain}: {cause} was not told in time, but {told}\n{story}"
                    )
            self._count_orders(report, site, of_moved=site is moved)
        return report

    def _judge_untended(self, report: Report, sites: list[DemoSite]) -> None:
        """The first of them to be renewed brings a crontab with it, so the others find one, which has not renewed."""
        for site in sites:
            report.causes[site.domain] = _risks_before_expiry(self._certpilot.feed(site))[0]
        told = {code for site in sites for code in report.causes[site.domain]}
        if "AUTO_RENEW_MISSING" not in told or not told <= {"AUTO_RENEW_MISSING", "AUTO_RENEW_FAILING"}:
            report.complaints.append(f"of the server without a cron job was told: {sorted(told)}")

    def _count_orders(self, report: Report, site: DemoSite, *, of_moved: bool) -> None:
        """A certificate is replaced once, in the last half of its life (the window of lifetimes below 10 days)."""
        if of_moved:  # the server's own certbot goes on trying every minute; certpilot does not
            ours = self._own_orders_since_the_move(site)
            if ours > _ORDERS_UNDER_WAY:
                report.complaints.append(f"{site.domain}: {ours} orders by certpilot after its DNS had moved")
            return
        most, orders, number = (
            1 + 2 * self._lifetimes,
            report.orders[site.domain],
            report.certificates[site.domain],
        )
        if orders > most:
            report.complaints.append(f"{site.domain}: {orders} orders in {self._lifetimes:.1f} lifetimes")
        # +1: a renewal at the very end that no visitor has seen yet
        if orders > number + 1:
            report.complaints.append(f"{site.domain}: {orders} orders, but {number} certificates were shown")

    def _own_orders_since_the_move(self, site: DemoSite) -> int:
        row = self._certpilot.conn.execute(
            "select count(*) from job_attempt join job on job.id = job_id"
            " where site_id = %s and orders and opened_at > %s",
            (site.site_id, self._moved_at),
        ).fetchone()
        assert row is not None
        return int(row[0])


def _start_cron(server: CustomerServer) -> None:
    server.write(_CRON_FILE, _CRON_LINE)
    server.cell.spawn(["/usr/sbin/cron", "-f"], log=server.log)


def _risks_before_expiry(events: list[Event]) -> tuple[list[str], bool]:
    """Codes of the risks that were told before the site first expired, or at all; and whether it did."""
    told: list[str] = []
    for event in events:
        if event.status == "expired":
            return told, True
        if event.kind == "ssl.certificate.at_risk" and event.code is not None:
            told.append(event.code)
    return told, False
