"""A TCP proxy that misbehaves on request: for faults between the worker and a broker, a database or a server.

One thread with an event loop of its own moves the bytes. What the proxy is told has taken effect when the call
returns, for open connections and for new ones.
"""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Self, TypeVar

T = TypeVar("T")
CHUNK_BYTES, MOST_WAITING_CHUNKS = 65536, 16
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: on, 0 s: close by RST instead of FIN


@dataclass(frozen=True, slots=True, eq=False)
class _Link:
    client: asyncio.StreamWriter
    target: asyncio.StreamWriter


class TcpProxy:
    """Forwards to one target, well or badly.

    Attributes:
        host: where it listens.
        port: where it listens; any free one.
        accepted: how many connections it has taken.
        bytes_to_target: what has reached the target.
        bytes_to_client: what has reached clients.
    """

    def __init__(self, target: tuple[str, int], *, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen and forward.

        Args:
            target: address and port of the real server.
            host: address to listen on.
            port: port to listen on; 0: any free one.
        """
        self._target = target
        listener = socket.create_server((host, port))
        self.host: str = listener.getsockname()[0]
        self.port: int = listener.getsockname()[1]
        self.accepted = self.bytes_to_target = self.bytes_to_client = 0
        self._latency_seconds = 0.0
        self._refusing = False
        self._cut_after: int | None = None
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tcp-proxy")
        self._thread.start()
        self._do(self._listen(listener))

    def set_latency(self, seconds: float) -> None:
        """Deliver everything this much later, in each direction."""
        self._set(lambda: setattr(self, "_latency_seconds", seconds))

    def black_hole(self, *, to_target: bool = True, to_client: bool = True) -> None:
        """Deliver nothing more, in one or both directions: connections stay open and silent, as on a dead line.

        With `to_target=False` requests still arrive and their answers do not. What is held back arrives after
        `heal`, as TCP would deliver it after an outage, unless the connection is reset before.
        """
        for flows, holds in ((self._to_target, to_target), (self._to_client, to_client)):
            self._set(flows.clear if holds else flows.set)

    def refuse(self) -> None:
        """Reset new connections at once; open ones go on."""
        self._set(lambda: setattr(self, "_refusing", True))

    def cut_after(self, count: int) -> None:
        """Reset every connection once this many more bytes have gone to a client: an answer is lost half-way."""
        self._set(lambda: setattr(self, "_cut_after", count))

    def reset(self) -> int:
        """Reset every open connection on both sides (RST) and give how many there were."""
        return self._do(self._reset())

    def abandon(self) -> int:
        """Reset every connection to the target alone: clients keep a half-open one, on which nothing comes."""
        self.black_hole(to_target=True, to_client=True)
        return self._do(self._abandon())

    def heal(self) -> None:
        """Behave again."""
        self._set(lambda: setattr(self, "_latency_seconds", 0.0))
        self._set(lambda: setattr(self, "_refusing", False))
        self._set(lambda: setattr(self, "_cut_after", None))
        self.black_hole(to_target=False, to_client=False)

    @property
    def connections(self) -> int:
        """How many connections are open on the clients' side."""
        return len(self._links)

    def close(self) -> None:
        """Reset every connection and stop listening; may be called twice."""
        if self._thread.is_alive():
            self._do(self._shut())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _set(self, change: Callable[[], None]) -> None:
        async def apply() -> None:
            change()

        self._do(apply())

    # --- in the proxy's thread --------------------------------------------------------------------------------------

    async def _listen(self, listener: socket.socket) -> None:
        self._to_target, self._to_client = asyncio.Event(), asyncio.Event()
        self._to_target.set()
        self._to_client.set()
        self._server = await asyncio.start_server(self._accept, sock=listener)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = self._loop.create_task(self._forward(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _forward(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        self.accepted += 1
        try:
            if self._refusing:
                raise ConnectionRefusedError
            answers, target = await asyncio.open_connection(*self._target)
        except OSError:
            _reset(client)
            return
        link = _Link(client, target)
        self._links.add(link)
        try:
            async with asyncio.TaskGroup() as directions:
                directions.create_task(self._pump(reader, self._send_to_target(target)))
                directions.create_task(self._pump(answers, self._send_to_client(client)))
        except* OSError:
            _reset(client)
            _reset(target)
        finally:
            self._links.discard(link)
            for writer in (client, target):
                writer.close()

    async def _pump(self, reader: asyncio.StreamReader, send: Callable[[bytes], Awaitable[None]]) -> None:
        """Move one direction until its end; an empty piece is the end (FIN)."""
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(MOST_WAITING_CHUNKS)

        async def read() -> None:
            data = b"-"
            while data:
                data = await reader.read(CHUNK_BYTES)
                await waiting.put((self._loop.time() + self._latency_seconds, data))

        async with asyncio.TaskGroup() as both:
            both.create_task(read())
            data = b"-"
            while data:
                due, data = await waiting.get()
                await asyncio.sleep(max(0.0, due - self._loop.time()))
                await send(data)

    def _send_to_target(self, target: asyncio.StreamWriter) -> Callable[[bytes], Awaitable[None]]:
        async def send(data: bytes) -> None:
            await self._to_target.wait()
            await _write(target, data)
            self.bytes_to_target += len(data)

        return send

    def _send_to_client(self, client: asyncio.StreamWriter) -> Callable[[bytes], Awaitable[None]]:
        async def send(data: bytes) -> None:
            await self._to_client.wait()
            cut = self._cut_after is not None and len(data) > self._cut_after
            await _write(client, data[: self._cut_after] if cut else data)
            self.bytes_to_client += len(data)
            if cut:
                self._cut_after = None
                await self._reset()
            elif self._cut_after is not None:
                self._cut_after -= len(data)

        return send

    async def _reset(self) -> int:
        links = list(self._links)
        self._links.clear()
        for link in links:
            _reset(link.client)
            _reset(link.target)
        return len(links)

    async def _abandon(self) -> int:
        links = list(self._links)
        for link in links:
            _reset(link.target)
        return len(links)

    async def _shut(self) -> None:
        self._server.close()
        await self._reset()
        for task in list(self._tasks):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)  # transports close one turn later


async def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
    if data:
        writer.write(data)
        await writer.drain()
    elif writer.can_write_eof() and not writer.is_closing():
        writer.write_eof()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection by RST."""
    with contextlib.suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
