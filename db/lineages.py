"""Table lineage: the certificates that certpilot has put on servers, by site, and has not taken away since."""

from psycopg.rows import dict_row

from db.pool import Connection
from db.sites import server_of
from workers.core.deciding.removal import LeftLineage
from workers.core.model import Server


def put(conn: Connection, site_id: str, names: tuple[str, ...], server: Server) -> None:
    """Note that the lineage of these names, the first its own, lies on the server."""
    conn.execute(
        "insert into lineage (site_id, server_key, cert_name, names, server_host, server_port, server_username,"
        " server_host_key, server_public_addresses) values (%s, %s, %s, %s, %s, %s, %s, %s, %s)"
        " on conflict (site_id, server_key, cert_name) do update set names = excluded.names,"
        " server_username = excluded.server_username, server_host_key = excluded.server_host_key,"
        " server_public_addresses = excluded.server_public_addresses",
        (
            site_id, server.key, names[0], list(names), server.host, server.port, server.username, server.host_key,
            list(server.public_addresses),
        ),
    )  # fmt: skip


def drop(conn: Connection, site_id: str, server_key: str, cert_name: str) -> None:
    """Note that it lies there no more."""
    conn.execute(
        "delete from lineage where site_id = %s and server_key = %s and cert_name = %s",
        (site_id, server_key, cert_name),
    )


def of_site(conn: Connection, site_id: str) -> tuple[LeftLineage, ...]:
    """Every lineage of the site, but for those that a cleanup is already to take away."""
    with conn.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(
            "select names, server_host, server_port, server_username, server_host_key, server_public_addresses"
            " from lineage l where site_id = %s and not exists (select from job j where j.site_id = l.site_id"
            "  and j.kind = 'cleanup' and j.state in ('queued', 'running', 'waiting')"
            "  and j.server_key = l.server_key and j.domain = l.cert_name)"
            " order by server_key, cert_name",
            (site_id,),
        ).fetchall()
    return tuple(LeftLineage(tuple(row["names"]), server_of(row)) for row in rows)
