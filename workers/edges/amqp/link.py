"""One AMQP connection with one channel, whose I/O runs in a thread of its own.

So heartbeats are answered while the owner works or sleeps, acknowledgements go out while deliveries come in, and no
caller ever waits for the broker by polling. What is bound to a link ends with it: a delivery tag or a confirm of one
link can never be taken for one of the next, which is how messages get lost elsewhere (FACTS-worker 0, finding 1).
"""

import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pika
import pika.exceptions
import pika.frame
import pika.spec
from pika.adapters.select_connection import IOLoop

from workers import logs
from workers.edges.amqp.broker import BrokerUnavailableError, connection_parameters, describe

_LOG = logs.get(__name__)

OPEN_SECONDS = 30.0
CLOSE_SECONDS = 5.0

UNREADABLE_HEADER = "certpilot-unreadable-properties"
"""Stands alone in the headers of a message whose AMQP properties cannot be read."""


class Link:
    """A connection that is opened once, used, and lost or closed once; never reconnected."""

    def __init__(
        self,
        url: str,
        *,
        name: str,
        prepare: Callable[[Any, Callable[[], None]], None],
        on_lost: Callable[[BrokerUnavailableError], None],
    ) -> None:
        """Describe the link; `open` makes it.

        Args:
            url: broker URL, see `broker.connection_parameters`.
            name: shown in the broker's connection list.
            prepare: called in the I/O thread with the open channel and a function that it must have called (there)
                once the channel is set up.
            on_lost: called in the I/O thread, exactly once where `open` succeeded, when the link has ended.
        """
        self._parameters = connection_parameters(url, name=name)
        self._prepare = prepare
        self._on_lost = on_lost
        self._loop = IOLoop()
        self._lock = threading.Lock()
        self._settled = threading.Event()
        self._connection: Any = None
        self._workflow: Any = None
        self._ready = False
        self._closing = False
        self._thread = threading.Thread(target=self._run, name=f"amqp {name}", daemon=True)
        self.lost: BrokerUnavailableError | None = None

    def open(self, timeout_seconds: float = OPEN_SECONDS) -> None:
        """Connect and prepare the channel.

        Raises:
            BrokerUnavailableError: it cannot be done, or not in time.
        """
        self._thread.start()
        if not self._settled.wait(timeout_seconds):
            self.close(timeout_seconds=0.0)
            raise BrokerUnavailableError(f"RabbitMQ gave no channel within {timeout_seconds:g} s")
        if self.lost is not None:
            raise self.lost

    def call(self, function: Callable[[], None]) -> bool:
        """Have `function` called in the I/O thread; False where the link has ended, and it never will be."""
        with self._lock:
            if self.lost is not None:
                return False
            self._loop.add_callback_threadsafe(function)
            return True

    def close(self, *, timeout_seconds: float = CLOSE_SECONDS) -> None:
        """Close in good order, after what was sent before; cut the connection where that takes too long."""
        self.call(self._close)
        self._thread.join(timeout_seconds)
        if self._thread.is_alive():
            self.abort("it did not close in time")
            self._thread.join(1.0)

    def abort(self, reason: str) -> None:
        """Cut the connection now. What was sent may or may not have arrived."""
        self.call(lambda: self._abort(reason))

    @contextmanager
    def gathering(self) -> Iterator[None]:
        """Send what is published inside by one system call; a burst of small ones costs most of the time. I/O thread only."""
        self._connection.gather()
        try:
            yield
        finally:
            self._connection.release()

    def _run(self) -> None:
        try:
            self._workflow = _Connection.create_connection(
                self._parameters, on_done=self._on_connected, custom_ioloop=self._loop
            )
            self._loop.start()
        except Exception as error:  # noqa: BLE001  # whatever broke it, the owner must learn that nothing comes any more
            _LOG.exception("broker.link_failed")
            self._lose(error)
        finally:
            self._loop.close()

    def _on_connected(self, result: Any) -> None:
        self._workflow = None
        if isinstance(result, BaseException):
            causes = getattr(result, "exceptions", None) or [result]
            self._lose(causes[-1])
            return
        self._connection = result
        result.add_on_close_callback(lambda _connection, reason: self._lose(reason))
        result.add_on_connection_blocked_callback(lambda *_: _LOG.warning("broker.blocks_publishers"))
        result.add_on_connection_unblocked_callback(lambda *_: _LOG.info("broker.unblocks_publishers"))
        if self._closing:
            self._close()
        else:
            result.channel(on_open_callback=self._on_channel)

    def _on_channel(self, channel: Any) -> None:
        channel.add_on_close_callback(self._on_channel_closed)
        self._prepare(channel, self._on_ready)

    def _on_ready(self) -> None:
        self._ready = True
        self._settled.set()

    def _on_channel_closed(self, _channel: Any, reason: Exception) -> None:
        """A channel of ours ends with its connection: one thing that can be lost, not two."""
        if self._connection is not None and self._connection.is_open:
            self._mark_lost(reason)
            self._connection.close()

    def _close(self) -> None:
        self._closing = True
        if self._workflow is not None:
            self._workflow.abort()
        elif self._connection is not None and self._connection.is_open:
            self._connection.close()

    def _abort(self, reason: str) -> None:
        self._mark_lost(BrokerUnavailableError(reason))
        if self._workflow is not None:
            self._workflow.abort()
        elif self._connection is not None:
            self._connection.abort(reason)

    def _lose(self, reason: BaseException) -> None:
        self._mark_lost(reason)
        self._loop.stop()

    def _mark_lost(self, reason: BaseException) -> None:
        with self._lock:
            if self.lost is not None:
                return
            error = BrokerUnavailableError(f"no connection to RabbitMQ: {describe(reason)}")
            error.__cause__ = reason
            self.lost = error
        if self._ready:
            self._on_lost(error)
        self._settled.set()


class _Connection(pika.SelectConnection):  # type: ignore[misc]  # pika is untyped
    """pika's connection with three things mended. They override private names: pyproject pins pika exactly."""

    _gathered: list[bytes] | None = None

    def abort(self, reason: str) -> None:
        """Cut the TCP connection. pika's `close` waits for an answer that a blocked or frozen broker never gives."""
        if not self.is_closed:
            self._terminate_stream(pika.exceptions.AMQPConnectionError(reason))

    def gather(self) -> None:
        """Hold back what is to be sent, until `release`."""
        self._gathered = []

    def release(self) -> None:
        """Send what was held back by one system call."""
        gathered, self._gathered = self._gathered, None
        if gathered:
            self._adapter_emit_data(b"".join(gathered))

    def _output_marshaled_frames(self, marshaled_frames: Sequence[bytes]) -> None:
        """Send a message's three frames by one system call, or none yet; pika makes one for each frame."""
        self.bytes_sent += sum(map(len, marshaled_frames))
        self.frames_sent += len(marshaled_frames)
        if self._gathered is None:
            self._adapter_emit_data(b"".join(marshaled_frames))
        else:
            self._gathered += marshaled_frames

    def _read_frame(self) -> tuple[int, Any]:
        """Read one frame; give a message whose properties cannot be read an empty set of them.

        RabbitMQ carries properties unread. pika turns a timestamp of the year 10000, a NaN or 200 nested tables in a
        header into an exception that costs the connection; the message comes again, and one producer's slip would
        stop every consumer of the queue for good.
        """
        try:
            return super()._read_frame()  # type: ignore[no-any-return]
        except (
            ValueError,
            ArithmeticError,
            OSError,
            RecursionError,
            struct.error,
            pika.exceptions.AMQPError,
        ):
            buffer = self._frame_buffer
            kind, channel, size = struct.unpack_from(">BHL", buffer)
            if kind != pika.spec.FRAME_HEADER:
                raise
            _class, _weight, body_size = struct.unpack_from(">HHQ", buffer, pika.spec.FRAME_HEADER_SIZE)
            unreadable = pika.BasicProperties(headers={UNREADABLE_HEADER: True})
            consumed = pika.spec.FRAME_HEADER_SIZE + size + pika.spec.FRAME_END_SIZE
            return consumed, pika.frame.Header(channel, body_size, unreadable)
