"""A server that a look has to ask itself: by SSH, read only and without a lease."""

from collections.abc import Iterator
from contextlib import contextmanager

from workers.core.model import Fence, Server
from workers.edges.server.agent import ServerAgent
from workers.edges.server.ssh import SshConnection
from workers.settings import Settings


@contextmanager
def agent_of(server: Server, config: Settings) -> Iterator[ServerAgent]:
    """Connect, for as long as the block runs.

    Raises:
        EdgeError: it does not let us in.
    """
    with SshConnection.connect(
        server, key_files=config.ssh_private_key_file, known_hosts_file=config.ssh_known_hosts_file
    ) as connection:
        yield ServerAgent(connection, server, Fence(0))
