"""A burst over every limit of Let's Encrypt, drained on a virtual clock: how much longer than the limits impose."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from db.pool import connect, open_pool
from deploy.lab.ca_limits import LETS_ENCRYPT
from deploy.lab.postgres import PostgresServer
from deploy.lab.run_directory import RunDirectory
from tests.bench.parts import make_template
from tests.bench.rows import Row
from tests.support.drain import Drain, Drained, SimServer, SimSite, imposed_seconds

AIM = 1.02
HOUR = 3600


@dataclass(frozen=True, slots=True)
class Burst:
    """What is asked for at one moment."""

    name: str
    sites: list[SimSite]


def bursts() -> Iterator[Burst]:
    """Two, so that each limit is the one that imposes the most, or nearly, in one of them."""
    yield Burst(
        "orders, registered domain, registrations, failures",
        [*hosting(1590, flood=54), *behind_one_address(54), *broken(3)],
    )
    yield Burst("exact sets, registered domain", [*forced_renewals(5, certificates=6), *hosting(0, flood=60)])


def hosting(sites: int, *, flood: int) -> list[SimSite]:
    """Forty servers with one account between them: sites of their own domains, and names below one domain."""
    account = "https://ca.test/acct/hosting"
    servers = [SimServer(f"10.0.0.{n}", f"203.0.113.{n}", account, registered=True) for n in range(40)]
    names = [f"www.site{n}.com" for n in range(sites)] + [f"n{n}.flood.com" for n in range(flood)]
    return [SimSite((name,), servers[number % 40]) for number, name in enumerate(names)]


def behind_one_address(servers: int) -> list[SimSite]:
    """New servers behind one address, two sites on each."""
    made = [SimServer(f"10.0.1.{n}", "198.51.100.1", f"https://ca.test/acct/new{n}") for n in range(servers)]
    return [SimSite((f"{word}.new{n}.com",), server) for n, server in enumerate(made) for word in ("a", "b")]


def broken(sites: int) -> list[SimSite]:
    """Sites that fail eight validations, and owners who press Issue again at once."""
    account = "https://ca.test/acct/broken"
    server = SimServer("10.0.3.1", "203.0.113.202", account, registered=True)
    return [SimSite((f"broken{n}.com",), server, failures=8) for n in range(sites)]


def forced_renewals(sites: int, *, certificates: int) -> list[SimSite]:
    """Sites whose owners press Renew as soon as a certificate is there."""
    account = "https://ca.test/acct/impatient"
    server = SimServer("10.0.2.1", "203.0.113.201", account, registered=True)
    return [SimSite((f"again{n}.com",), server, certificates=certificates) for n in range(sites)]


def run() -> list[Row]:
    with RunDirectory() as directory, PostgresServer(directory.path / "postgres") as postgres:
        template = make_template(postgres)
        rows = []
        for number, burst in enumerate(bursts()):
            url = postgres.create_database(f"bench_limits_{number}", template=template)
            with connect(url, "bench", autocommit=True) as conn, open_pool(url, "bench", max_size=2) as pool:
                random.Random(number).shuffle(burst.sites)
                drained = Drain(pool, conn, LETS_ENCRYPT, directory.path, seed=number).run(burst.sites)
            rows += rows_of(burst, drained)
    return rows


def rows_of(burst: Burst, drained: Drained) -> list[Row]:
    imposed = imposed_seconds(drained, LETS_ENCRYPT)
    most = max(imposed.values())
    ratio = drained.seconds / most
    shares = ", ".join(f"{name} {seconds / HOUR:.1f} h" for name, seconds in imposed.items() if seconds)
    jobs = len(drained.looks)
    measure = f"burst of {jobs:,} jobs ({burst.name}): drained ÷ what the limits impose"
    figure = f"{drained.seconds / HOUR:.2f} h ÷ {most / HOUR:.2f} h = {ratio:.4f} ({shares})"
    looks = f"{sum(drained.looks) / jobs:.2f} (most {max(drained.looks)})"
    return [
        Row(measure, figure, f"≤ {AIM}", ratio <= AIM),
        Row("the same: orders that the CA refused", str(len(drained.refusals)), "0", not drained.refusals),
        Row("the same: times that a job was told to wait", looks, "", None),
    ]
