"""TLS to the database, as the URL's `sslmode` asks: proven or refused, never less than asked for."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from db.pool import OperationalError, connect, open_pool, transaction
from deploy.lab.keys import make_tls_identity
from deploy.lab.postgres import PostgresServer


@dataclass(frozen=True, slots=True)
class Secured:
    """A server that speaks TLS with a certificate for 127.0.0.1 by an authority of its own."""

    url: str
    root: Path


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("secured")
    root, chain, key = make_tls_identity(folder, "127.0.0.1", ("database.test",))
    with PostgresServer(folder / "postgres") as server:
        data = folder / "postgres" / "data"
        owner = data.stat()
        for file, name in ((chain, "server.crt"), (key, "server.key")):
            shutil.copy(file, data / name)
            os.chown(data / name, owner.st_uid, owner.st_gid)
            (data / name).chmod(0o600)
        server.execute("alter system set ssl = on")
        server.restart()
        yield Secured(server.url(), root)


def is_encrypted(conn: "psycopg.Connection[tuple[object, ...]]") -> bool:
    return conn.execute("select ssl from pg_stat_ssl where pid = pg_backend_pid()").fetchone() == (True,)


def test_connections_and_pools_are_encrypted_and_the_server_is_verified(secured: Secured) -> None:
    url = f"{secured.url}?sslmode=verify-full&sslrootcert={secured.root}"
    with connect(url, "test") as conn:
        assert is_encrypted(conn)
    with open_pool(url, "test", max_size=1) as pool, transaction(pool) as conn:
        assert is_encrypted(conn)


@pytest.mark.parametrize("lie", ["an unknown authority", "another name", "no TLS at all"])
def test_server_that_cannot_prove_its_name_is_not_talked_to(
    secured: Secured, postgres: PostgresServer, tmp_path: Path, lie: str
) -> None:
    url, root = secured.url, secured.root
    if lie == "an unknown authority":
        root = make_tls_identity(tmp_path, "127.0.0.1")[0]
    elif lie == "another name":
        url = url.replace("127.0.0.1", "localhost")
    else:
        url = postgres.url()
    with pytest.raises(OperationalError, match=r"certificate|SSL"):
        connect(f"{url}?sslmode=verify-full&sslrootcert={root}", "test")
