"""Private RabbitMQ nodes, alone and as a cluster: what they are asked to suffer really happens to them."""

from collections.abc import Iterator
from pathlib import Path

import pika
import pika.exceptions
import pytest

from deploy.lab.rabbitmq import RabbitNode
from deploy.lab.rabbitmq_cluster import RabbitCluster
from deploy.lab.run_directory import RunDirectory
from tests.support.waiting import until

QUORUM = {"x-queue-type": "quorum", "x-delivery-limit": 1_000_000}


@pytest.fixture
def own_directory() -> Iterator[Path]:
    with RunDirectory() as directory:
        yield directory.path


def publish(url: str, queue: str, body: bytes) -> None:
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.basic_publish("", queue, body, pika.BasicProperties(delivery_mode=2), mandatory=True)


def declare(url: str, queue: str) -> int:
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        return int(
            connection.channel().queue_declare(queue, durable=True, arguments=QUORUM).method.message_count
        )


def test_confirmed_messages_survive_the_death_of_the_node(own_directory: Path) -> None:
    with RabbitNode(own_directory / "rabbit") as node:
        url = node.url(node.add_vhost())
        declare(url, "q")
        publish(url, "q", b"kept")
        node.settle()
        node.kill()
        with pytest.raises(pika.exceptions.AMQPConnectionError):
            declare(url, "q")
        node.start()
        until(lambda: declare(url, "q") == 1, what="the message")
        node.stop()
        assert not node.running


def test_all_connections_can_be_closed_from_the_brokers_side(rabbit: RabbitNode) -> None:
    url = rabbit.url(rabbit.add_vhost())
    connection = pika.BlockingConnection(pika.URLParameters(url))
    rabbit.close_all_connections("for a test")
    with pytest.raises(pika.exceptions.ConnectionClosedByBroker, match="CONNECTION_FORCED - for a test"):
        connection.process_data_events(10)


def test_cluster_loses_nothing_with_the_leader_of_the_queue(own_directory: Path) -> None:
    with RabbitCluster(own_directory / "cluster") as cluster:
        vhost = cluster.add_vhost()
        urls = dict(zip([node.name for node in cluster.nodes], cluster.urls(vhost), strict=True))
        declare(urls[cluster.nodes[0].name], "q")
        publish(urls[cluster.nodes[1].name], "q", b"kept")
        leader = cluster.leader(vhost, "q")
        leader.kill()
        survivor = next(node for node in cluster.nodes if node.running)
        until(lambda: cluster.leader(vhost, "q") is not leader, seconds=30, what="another leader")
        until(lambda: declare(urls[survivor.name], "q") == 1, seconds=30, what="the message")
        leader.start()
        until(lambda: declare(urls[leader.name], "q") == 1, seconds=30, what="the message")
