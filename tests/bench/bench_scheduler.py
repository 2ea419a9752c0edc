"""A scheduler's tick while a million sites have nothing due."""

import time

from db.pool import connect, open_pool
from deploy.lab.postgres import PostgresServer
from deploy.lab.run_directory import RunDirectory
from tests.bench.parts import make_template
from tests.bench.rows import Row, median
from tests.support.many_sites import fill
from workers.scheduler import Scheduler

SITES = 1_000_000
PAST_JOBS = 200_000
LIVE_JOBS = 1_000
TICKS = 20
AIM_MS = 50


def run() -> list[Row]:
    with RunDirectory() as directory, PostgresServer(directory.path / "postgres") as postgres:
        url = postgres.create_database("bench", template=make_template(postgres))
        with connect(url, "bench", autocommit=True) as conn:
            conn.execute("set synchronous_commit = off")
            fill(conn, sites=SITES, past_jobs=PAST_JOBS, live_jobs=LIVE_JOBS)
        with open_pool(url, "scheduler", max_size=2) as pool:
            scheduler = Scheduler(pool)
            scheduler.tick()
            times = []
            for _ in range(TICKS):
                began = time.perf_counter()
                scheduler.tick()
                times.append((time.perf_counter() - began) * 1000)
    measure = f"scheduler tick, {SITES:,} sites, {LIVE_JOBS:,} jobs run, wait and are queued, nothing due"
    figure = f"{median(times):.1f} ms (longest {max(times):.1f})"
    return [Row(measure, figure, f"< {AIM_MS} ms", median(times) < AIM_MS)]
