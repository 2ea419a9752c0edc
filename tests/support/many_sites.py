"""A database that has been in use: many active sites, jobs of every kind, and nothing that is due."""

from psycopg import sql

from db.pool import Connection

_SITES = """
insert into site (site_id, domain, server_host, server_port, server_username, ssl_status, ssl_expiry, certificate_serial,
                  certificate_names, certificate_issuer, certificate_not_before, certificate_server_key, ever_issued, next_check_at,
                  renewal_due_at)
select 'site_' || n, 'd' || n || '.example.com', '203.0.113.' || n %% 250, 22, 'root', 'active',
       now() + make_interval(days => 30 + n %% 60), n::text, array['d' || n || '.example.com'], 'CA',
       now() - interval '1 day', 'server:203.0.113.' || n %% 250 || ':22', true,
       now() + interval '1 hour' + n %% 86400 * interval '1 s', now() + make_interval(days => 15 + n %% 60)
from generate_series(1, %(sites)s) n
"""
_JOBS = """
insert into job (id, site_id, kind, state, domain, names, server_host, server_port, server_username, server_key, run_at,
                 finished_at, command_id, command_source)
select gen_random_uuid(), 'site_' || n, 'issue', {state}, 'd' || n || '.example.com', array['d' || n || '.example.com'],
       '203.0.113.' || n %% 250, 22, 'root', {server_key}, {run_at}, {finished_at},
       'command_' || n, '/sites'
from generate_series(1, %(jobs)s) n
"""
# A lease outlives its job: every name that ever had a job has one.
_FREE_LEASES = """
insert into lease (key, owner, fence) select 'domain:d' || n || '.example.com', gen_random_uuid(), 1
from generate_series(1, %(sites)s) n
"""
_HELD_LEASES = """
insert into lease (key, owner, fence, expires_at)
select server_key, gen_random_uuid(), 1, now() + interval '100 seconds' from job where state = 'running'
"""


def fill(conn: Connection, *, sites: int, past_jobs: int, live_jobs: int) -> None:
    """Make active sites, jobs that succeeded, and so many jobs of each live state, none of them due.

    Args:
        conn: to an empty, migrated database; autocommit.
        sites: how many.
        past_jobs: how many jobs succeeded.
        live_jobs: how many jobs wait, are queued, and run, each; running ones have leases.
    """
    conn.execute(_SITES, {"sites": sites})
    for state, count in (
        ("succeeded", past_jobs),
        ("waiting", live_jobs),
        ("queued", live_jobs),
        ("running", live_jobs),
    ):
        final, running = state == "succeeded", state == "running"
        parts = {
            "state": sql.Literal(state),
            "server_key": sql.SQL("'server:' || n") if running else sql.SQL("'server:' || n %% 250"),
            "run_at": sql.SQL("null" if final or running else "now() + interval '50 seconds'"),
            "finished_at": sql.SQL("now()" if final else "null"),
        }
        conn.execute(sql.SQL(_JOBS).format(**parts), {"jobs": count})
    conn.execute(_FREE_LEASES, {"sites": sites})
    conn.execute(_HELD_LEASES)
    conn.execute("vacuum analyze site, job, lease")
