"""Where a secret must not be: argument lists and environments, tables, files on a server."""

import contextlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from psycopg import sql

from deploy.lab.server import CustomerServer
from tests.support.installation import Installation


@contextmanager
def watching_arguments(server: CustomerServer) -> Iterator[set[bytes]]:
    """Argument lists and environments of every process of the server and of ours, looked at again and again."""
    seen: set[bytes] = set()
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(0.02):
            ours = [int(path.name) for path in Path("/proc").glob("[0-9]*") if _is_ours(path)]
            for pid in (*server.cell.processes(), *ours):
                for kind in ("cmdline", "environ"):
                    with contextlib.suppress(OSError):
                        seen.add(Path(f"/proc/{pid}/{kind}").read_bytes())

    thread = threading.Thread(target=look, name="ps")
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


def _is_ours(process: Path) -> bool:
    try:
        return b"certpilot" in (process / "cmdline").read_bytes()
    except OSError:
        return False


def everything_stored(certpilot: Installation) -> Iterator[tuple[str, bytes]]:
    """Each table with all its rows; bytes are written in hexadecimal there."""
    names = certpilot.conn.execute(
        "select table_name from information_schema.tables where table_schema = 'public'"
    )
    for (name,) in names.fetchall():
        query = sql.SQL("select row::text from {} row").format(sql.Identifier(name))
        yield f"table {name}", "\n".join(row[0] for row in certpilot.conn.execute(query)).encode()


def all_files(server: CustomerServer, folders: str) -> bytes:
    """What lies in these folders of a server, without the agent script."""
    return server.run(
        ["sh", "-c", f"find {folders} -type f ! -path '*/agent/*' -exec cat {{}} +"]
    ).stdout.encode()
