"""What the roles declare on RabbitMQ, and how they reach it."""

import socket
import ssl
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pika
import pytest
from pika.adapters.utils import io_services_utils

from contracts.topology import JOBS_QUEUE
from deploy.lab.keys import make_tls_identity
from deploy.lab.machine import free_port
from deploy.lab.rabbitmq import RabbitNode
from tests.support import amqp
from workers.edges.amqp.broker import (
    BrokerUnavailableError,
    TopologyError,
    connection_parameters,
    declare_topology,
    ensure_topology,
)
from workers.edges.amqp.delivery_stream import DeliveryStream
from workers.edges.amqp.publisher import OutgoingMessage, Publisher, PublishResult

QUEUES = ("ssl.commands", "ssl.jobs", "ssl.activity")


def test_each_exchange_reaches_its_queue_and_no_other(broker_url: str) -> None:
    ensure_topology(broker_url, name="test")
    with amqp.channel(broker_url) as channel:
        channel.confirm_delivery()
        channel.basic_publish("ssl.commands", "ssl.issue", b"command", mandatory=True)
        channel.basic_publish("ssl.events", "ssl.status.changed", b"event", mandatory=True)
    assert {queue: amqp.bodies(broker_url, queue) for queue in QUEUES} == {
        "ssl.commands": [b"command"],
        "ssl.jobs": [],
        "ssl.activity": [b"event"],
    }


def test_queues_are_quorum_with_the_one_safe_limit_and_forget_nothing(
    rabbit: RabbitNode, broker_url: str
) -> None:
    """Redeclaring with exactly these arguments passes only where there are no others."""
    ensure_topology(broker_url, name="test")
    with amqp.channel(broker_url) as channel:
        for queue in QUEUES:
            for each in (queue, f"{queue}.dlq"):
                channel.queue_declare(
                    each, durable=True, arguments={"x-queue-type": "quorum", "x-delivery-limit": 1_000_000}
                )
    listed = rabbit.ctl("list_queues", "-p", amqp.vhost(broker_url), "name", "--no-table-headers").split()
    assert sorted(listed) == sorted([*QUEUES, *(f"{queue}.dlq" for queue in QUEUES)])


def test_a_producers_plain_declare_matches(broker_url: str) -> None:
    ensure_topology(broker_url, name="test")
    with amqp.channel(broker_url) as channel:
        channel.exchange_declare("ssl.commands", "topic", durable=True)
        channel.exchange_declare("ssl.events", "topic", durable=True)


def test_all_roles_may_declare_at_the_same_moment(broker_url: str) -> None:
    together = threading.Barrier(6)

    def declare(_: int) -> None:
        together.wait(timeout=10)
        ensure_topology(broker_url, name="test")

    with ThreadPoolExecutor(6) as executor:
        list(executor.map(declare, range(6)))
    assert amqp.count(broker_url, "ssl.activity.dlq") == 0


def test_a_foreign_queue_of_the_same_name_is_named_with_the_way_out(broker_url: str) -> None:
    with amqp.channel(broker_url) as channel:
        channel.queue_declare(JOBS_QUEUE, durable=True)
    with pytest.raises(TopologyError) as caught:
        ensure_topology(broker_url, name="test")
    for needed in ("queue ssl.jobs", "quorum", "1000000", "delete queue name=ssl.jobs", "x-queue-type"):
        assert needed in str(caught.value)


def test_a_foreign_exchange_of_the_same_name_is_named_with_the_way_out(broker_url: str) -> None:
    with amqp.channel(broker_url) as channel:
        channel.exchange_declare("ssl.events", "fanout", durable=True)
    with pytest.raises(
        TopologyError, match=r"exchange ssl\.events .* durable topic exchange .*delete exchange"
    ):
        ensure_topology(broker_url, name="test")


def test_a_user_without_rights_is_told_which(rabbit: RabbitNode, broker_url: str) -> None:
    vhost = amqp.vhost(broker_url)
    rabbit.eval(
        f'rabbit_auth_backend_internal:set_permissions(<<"guest">>, <<"{vhost}">>, '
        '<<"^$">>, <<".*">>, <<".*">>, <<"lab">>)'
    )
    with pytest.raises(TopologyError, match=r"may not declare exchange ssl\.commands"):
        ensure_topology(broker_url, name="test")


def test_a_lost_connection_while_declaring_is_not_taken_for_a_clash(
    rabbit: RabbitNode, broker_url: str
) -> None:
    with pika.BlockingConnection(connection_parameters(broker_url, name="test")) as connection:
        channel = connection.channel()
        rabbit.close_all_connections()
        with pytest.raises(pika.exceptions.AMQPConnectionError):
            declare_topology(channel)


@pytest.mark.parametrize("url", ["amqp://127.0.0.1:1/%2F", "amqp://guest:wrong@127.0.0.1:{port}/%2F"])
def test_a_broker_that_cannot_be_reached_is_unavailable(rabbit: RabbitNode, url: str) -> None:
    with pytest.raises(BrokerUnavailableError) as caught:
        ensure_topology(url.format(port=rabbit.port), name="test")
    assert "wrong" not in str(caught.value)


def test_the_url_gives_every_parameter_that_keeps_a_role_from_hanging() -> None:
    (parameters,) = connection_parameters(
        "amqp://us%40er:p%2Fw@broker.example/v%2Fhost", name="certpilot-test"
    )
    assert (parameters.host, parameters.port, parameters.virtual_host) == ("broker.example", 5672, "v/host")
    assert (parameters.credentials.username, parameters.credentials.password) == ("us@er", "p/w")
    assert parameters.client_properties == {"connection_name": "certpilot-test"}
    for bound in ("heartbeat", "blocked_connection_timeout", "socket_timeout", "stack_timeout"):
        assert 0 < getattr(parameters, bound) <= 60


def test_a_clusters_nodes_are_tried_in_turn() -> None:
    nodes = connection_parameters("amqp://a/x,amqp://b:5673/x, amqps://c/x", name="test")
    assert [(node.host, node.port) for node in nodes] == [("a", 5672), ("b", 5673), ("c", 5671)]


def test_tls_always_verifies_chain_and_name() -> None:
    (parameters,) = connection_parameters("amqps://broker.example/", name="test")
    context = parameters.ssl_options.context
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert parameters.ssl_options.server_hostname == "broker.example"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://broker/", "expected amqp://"),
        ("amqp:///x", "expected amqp://"),
        ("amqp://user:secret@broker/a/b", "%2F"),
        ("amqps://user:secret@broker/?verify=verify_none", "verify"),
        ("amqp://user:secret@broker/?hearbeat=5", "hearbeat"),
    ],
)
def test_a_wrong_url_is_refused_without_its_password(url: str, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        connection_parameters(url, name="test")
    assert "secret" not in str(caught.value)


@pytest.fixture(scope="module")
def tls(rabbit: RabbitNode, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Path]:
    """A TLS listener of the node, with a certificate for 127.0.0.1 by an authority of its own: port and root."""
    root, chain, key = make_tls_identity(tmp_path_factory.mktemp("tls"), "127.0.0.1", ("broker.test",))
    port = free_port()
    options = f'[{{cacertfile, "{root}"}}, {{certfile, "{chain}"}}, {{keyfile, "{key}"}}]'
    rabbit.eval(
        "begin application:ensure_all_started(ssl), "
        f'ok = rabbit_networking:start_ssl_listener({{"127.0.0.1", {port}}}, {options}, 1, 1) end'
    )
    return port, root


def test_publishing_and_consuming_work_over_tls(broker_url: str, tls: tuple[int, Path]) -> None:
    port, root = tls
    url = f"amqps://guest:guest@127.0.0.1:{port}/{amqp.vhost(broker_url)}?cacertfile={root}"
    publisher = Publisher(url, name="test")
    bodies = [b"%d" % number for number in range(2000)]
    sent = [OutgoingMessage("", JOBS_QUEUE, body, "id") for body in bodies]
    assert set(publisher.publish_batch(sent)) == {PublishResult.CONFIRMED}
    publisher.close()
    stream = DeliveryStream(url, JOBS_QUEUE, prefetch=5000, name="test")
    taken: list[bytes] = []
    while len(taken) < len(bodies):
        batch = stream.take(5000, wait_seconds=5)
        assert batch
        taken += [delivery.body for delivery in batch]
    stream.close()
    assert taken == bodies


@pytest.mark.parametrize("lie", ["an unknown authority", "another name"])
def test_a_broker_that_cannot_prove_its_name_is_not_talked_to(
    broker_url: str, tls: tuple[int, Path], lie: str
) -> None:
    port, root = tls
    url = f"amqps://guest:guest@127.0.0.1:{port}/{amqp.vhost(broker_url)}"
    if lie == "another name":
        url = f"{url.replace('127.0.0.1', 'localhost')}?cacertfile={root}"
    with pytest.raises(BrokerUnavailableError, match="CERTIFICATE_VERIFY_FAILED"):
        ensure_topology(url, name="test")


def test_connection_that_is_reset_as_soon_as_it_is_made_is_an_unavailable_broker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """pika raises ValueError where the reset comes before it has asked for the peer's name; a role died of that."""
    begin = io_services_utils._AsyncStreamConnector.__init__
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def begin_after_the_reset(self: Any, *, sock: socket.socket, **rest: Any) -> None:
            accepted, _ = listener.accept()
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            accepted.close()
            amqp.wait_for(lambda: not has_peer(sock), "the reset")
            begin(self, sock=sock, **rest)

        monkeypatch.setattr(io_services_utils._AsyncStreamConnector, "__init__", begin_after_the_reset)
        with pytest.raises(BrokerUnavailableError):
            ensure_topology(f"amqp://127.0.0.1:{listener.getsockname()[1]}/", name="test")


def has_peer(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True
