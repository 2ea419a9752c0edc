"""Jobs in the database as intake and runners make them, without either."""

from uuid import uuid4

from db import claims, jobs, sites
from db.claims import HeldJob
from db.pool import Connection, Pool, transaction
from workers.core.model import JobId, JobKind, Server, SslStatus

SERVER = Server("203.0.113.7")
LEASE_SECONDS = 600.0


def add_job(
    conn: Connection,
    *names: str,
    server: Server = SERVER,
    site: str | None = None,
    kind: JobKind = JobKind.ISSUE,
    force: bool = False,
) -> JobId:
    """A queued job of a pending site; the site's id is the first name unless one is given."""
    job_id = JobId(str(uuid4()))
    site_id = site or names[0]
    with conn.transaction():
        sites.lock(conn, site_id)
        jobs.insert(conn, jobs.NewJob(job_id, site_id, kind, names, server, force, "c", "/s", None), 60)
        sites.set_request(
            conn, site_id, domain=names[0], aliases=names[1:], server=server, job_id=job_id,
            status=SslStatus.PENDING,
        )  # fmt: skip
    return job_id


def take(pool: Pool, job_id: JobId) -> HeldJob:
    """Claim it as a runner does."""
    with transaction(pool) as conn:
        held = claims.claim(conn, job_id, uuid4(), LEASE_SECONDS)
        assert isinstance(held, HeldJob), held
        return held
