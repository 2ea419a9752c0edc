"""RabbitMQ: how it is reached, and the exchanges, queues and bindings that every role declares (DESIGN A.1, A.2, A.9)."""

import re
import ssl
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import pika
import pika.exceptions

from contracts.topology import (
    BINDING_KEY,
    BINDINGS,
    DELIVERY_LIMIT,
    EXCHANGES,
    QUEUE_ARGUMENTS,
    QUEUES,
    dead_letter_queue,
)

HEARTBEAT_SECONDS = 20
"""A dead peer is noticed after this and five seconds more (pika adds them)."""

BLOCKED_SECONDS = 30
"""A memory or disk alarm blocks publishers; pika by itself waits for its end for ever."""

CONNECT_SECONDS = 10

_URL_QUERY = frozenset({"cacertfile", "certfile", "keyfile", "heartbeat"})
_ACCESS_REFUSED = 403
_DECLARE_CLASH = frozenset({405, 406})  # locked by an exclusive owner; declared with other properties


class BrokerError(Exception):
    """The broker did not do what was asked."""


class BrokerUnavailableError(BrokerError):
    """The broker cannot be reached now, or the connection was lost. Trying again later may help."""


class TopologyError(BrokerError):
    """An exchange or queue of ours cannot be declared as it must be. A person has to act; the message says how."""


def connection_parameters(url: str, *, name: str) -> list[Any]:
    """Read one broker URL, or several (a cluster's nodes) separated by commas.

    Args:
        url: `amqp://` or `amqps://`; the query may hold `heartbeat` (seconds) and, for TLS, `cacertfile`, `certfile`
            and `keyfile` as in RabbitMQ's URI specification. TLS always verifies the certificate and the host name.
        name: what the broker's connection list shows, for instance `certpilot relay`.

    Returns:
        pika's connection parameters, one for each URL, to be tried in turn.

    Raises:
        ValueError: the URL cannot be used. The message never holds the password.
    """
    parts = re.split(r"[,;\s]+(?=amqps?://)", url.strip())
    return [_one_connection(urlsplit(part), name) for part in parts]


def _one_connection(url: SplitResult, name: str) -> Any:
    if url.scheme not in ("amqp", "amqps") or not url.hostname:
        raise ValueError("expected amqp://user:password@host:port/vhost, or amqps:// for TLS")
    if url.path.count("/") > 1:
        raise ValueError("the broker URL's path is the vhost; write a slash in its name as %2F")
    query = dict(parse_qsl(url.query))
    if unknown := query.keys() - _URL_QUERY:
        accepted = ", ".join(sorted(_URL_QUERY))
        raise ValueError(f"unknown in the broker URL: {', '.join(sorted(unknown))}; accepted are {accepted}")
    tls = _tls_options(url.hostname, query) if url.scheme == "amqps" else None
    return pika.ConnectionParameters(
        host=url.hostname,
        port=url.port or (5671 if tls else 5672),
        virtual_host=unquote(url.path[1:]) or "/",
        credentials=pika.PlainCredentials(unquote(url.username or "guest"), unquote(url.password or "guest")),
        ssl_options=tls,
        heartbeat=int(query.get("heartbeat", HEARTBEAT_SECONDS)),
        blocked_connection_timeout=BLOCKED_SECONDS,
        socket_timeout=CONNECT_SECONDS,
        stack_timeout=CONNECT_SECONDS,
        connection_attempts=1,  # how often and how fast is decided where the connection is used
        client_properties={"connection_name": name},
    )


def _tls_options(host: str, query: dict[str, str]) -> Any:
    context = ssl.create_default_context(cafile=query.get("cacertfile"))
    if "cacertfile" in query:
        # Python 3.13 by default refuses roots without keyUsage, as private ones often are. Chain and name still count.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if "certfile" in query:
        context.load_cert_chain(query["certfile"], query.get("keyfile"))
    return pika.SSLOptions(context, server_hostname=host)


def ensure_topology(url: str, *, name: str) -> None:
    """Declare the whole topology over a connection of its own, in some ten milliseconds.

    Raises:
        BrokerUnavailableError: the broker cannot be reached.
        TopologyError: something stands in the way that a person has to remove.
    """
    parameters = connection_parameters(url, name=name)
    try:
        with pika.BlockingConnection(parameters) as connection:
            declare_topology(connection.channel())
    # ValueError: a connection that is reset before pika asks for its peer's name, which it takes for our mistake.
    except (pika.exceptions.AMQPError, OSError, ValueError) as error:
        raise BrokerUnavailableError(f"RabbitMQ cannot be reached: {describe(error)}") from error


def declare_topology(channel: Any) -> None:
    """Declare all exchanges, queues, dead-letter queues and bindings. Repeating it changes nothing.

    Args:
        channel: an open `pika.BlockingConnection` channel; a refused declaration closes it.

    Raises:
        TopologyError: something exists already with other properties, or the user may not declare.
        pika.exceptions.AMQPError: the connection was lost.
    """
    for exchange in EXCHANGES:
        with _Declaring(f"exchange {exchange}"):
            channel.exchange_declare(exchange, "topic", durable=True)
    for queue in QUEUES:
        for each in (queue, dead_letter_queue(queue)):
            with _Declaring(f"queue {each}"):
                channel.queue_declare(each, durable=True, arguments=dict(QUEUE_ARGUMENTS))
    for exchange, queue in BINDINGS:
        with _Declaring(f"binding of {queue} to {exchange}"):
            channel.queue_bind(queue, exchange, BINDING_KEY)


class _Declaring:
    """Turns the broker's refusal of one declaration into a sentence that says what to do."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        if not isinstance(error, pika.exceptions.ChannelClosedByBroker):
            return
        said = f"RabbitMQ answered {error.reply_code}: {error.reply_text}"
        if error.reply_code == _ACCESS_REFUSED:
            raise TopologyError(
                f"The user of CERTPILOT_RABBITMQ_URL may not declare {self._what}. Let it configure, write and read "
                rf"what matches ^(ssl\..*|amq\.default)$ (rabbitmqctl set_permissions). {said}"
            ) from error
        if error.reply_code in _DECLARE_CLASH:
            kind, _, its_name = self._what.partition(" ")
            wanted = (
                f"a durable quorum queue with x-delivery-limit {DELIVERY_LIMIT} and no other argument"
                if kind == "queue"
                else "a durable topic exchange without arguments"
            )
            raise TopologyError(
                f"The {self._what} exists already and is not what certpilot needs: {wanted}. Find out who declared it; "
                f"let it drain or move its messages, delete it (rabbitmqadmin delete {kind} name={its_name}), then "
                f"start again: certpilot declares it anew. {said}"
            ) from error


def describe(error: BaseException) -> str:
    """Say in one line why a connection failed. pika wraps causes, and leaves some exceptions without a text."""
    while True:
        wrapped = getattr(error, "exception", None) or (error.args[-1] if error.args else None)
        if not isinstance(wrapped, BaseException):
            text = str(error)
            return f"{type(error).__name__}: {text}" if text else type(error).__name__
        error = wrapped
