"""What producers publish: sites on a few servers, and commands of every kind for them, repeated and contradicting."""

import contextlib
import json
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pika

from deploy.lab import server_files
from deploy.lab.lab import Lab
from deploy.lab.server import CustomerServer
from tests.support.commands import command
from tests.support.invariants import Command

_ALIASES = ("www", "shop")
_BROKEN = (
    b"\xff\xfe not UTF-8",
    b"{",
    b"[" * 3000,
    b'{"specversion": "1.0", "id": "x", "source": "/sites", "type": "com.example.other.v1", "data": {}}',
)


@dataclass(frozen=True, slots=True)
class Door:
    """A server as the worker is told of it: behind proxies at an address of their own."""

    server: CustomerServer
    host: str

    @property
    def key(self) -> str:
        return f"server:{self.host}:22"

    def reference(self) -> dict[str, Any]:
        public = [self.server.host, *([self.server.host6] if self.server.host6 else [])]
        return {"host": self.host, "hostKey": self.server.host_key, "publicAddresses": public}


@dataclass(slots=True)
class Site:
    site_id: str
    domain: str
    door: Door
    aliases: tuple[str, ...] = ()


def make_sites(lab: Lab, doors: Sequence[Door], count: int, label: str) -> list[Site]:
    """Sites by turns on the servers; each twelfth one names the domain of the one before it on its server."""
    sites: list[Site] = []
    for number in range(count):
        door = doors[number % len(doors)]
        domain = f"{label}-{number}.example.com"
        if number % 12 == 11 and number >= len(doors):
            domain = sites[number - len(doors)].domain
        sites.append(Site(f"site_{label}_{number}", domain, door))
    for door in doors:
        names = [
            name
            for site in sites
            if site.door is door
            for name in (site.domain, *(f"{alias}.{site.domain}" for alias in _ALIASES))
        ]
        _serve(door.server, dict.fromkeys(names))
        lab.point(*names, to=door.server)
    return sites


def _serve(server: CustomerServer, names: Sequence[str] | dict[str, None]) -> None:
    """Each name with a vhost and a root of its own; one reload for all of them."""
    parts = ["set -e"]
    for name in names:
        text = server_files.site((name,), f"/var/www/{name}", ipv6=server.has_ipv6)
        parts.append(f"mkdir -p /var/www/{name}; echo {name} >/var/www/{name}/index.html")
        parts.append(f"cat >/etc/nginx/sites-enabled/{name} <<'END'\n{text}END")
    server.run(["sh", "-s"], stdin="\n".join([*parts, ""]).encode())
    server.nginx.reload()


@dataclass(slots=True)
class Producer:
    """Publishes with confirms and does not give up; what it has published is what must be answered.

    Attributes:
        published: commands in their order, each id once.
        broken: bodies that are no commands.
        sent: messages confirmed, repetitions included.
    """

    urls: Sequence[str]
    sites: Sequence[Site]
    dice: random.Random
    published: dict[str, Command] = field(default_factory=dict)
    broken: list[bytes] = field(default_factory=list)
    sent: int = 0
    kinds: dict[str, int] = field(default_factory=dict)
    _bodies: list[dict[str, Any]] = field(default_factory=list)
    _connection: Any = None
    _channel: Any = None

    def run(self, count: int, seconds: float, give_up: threading.Event) -> None:
        """Publish `count` messages: at once an issue for each site, the rest spread over the time."""
        try:
            self._run(count, seconds, give_up)
        finally:
            self._disconnect()

    def _run(self, count: int, seconds: float, give_up: threading.Event) -> None:
        order = list(self.sites)
        for site in order[:count]:
            self._send(site, "issue")
        rest = max(0, count - len(order))
        began = time.monotonic()
        for number in range(rest):
            due = began + seconds * (number + 1) / rest
            if give_up.wait(max(0.0, due - time.monotonic())):
                return
            if number % len(order) == 0:
                self.dice.shuffle(order)
            kind = self.dice.choices(
                ("force", "renew", "aliases", "issue", "repeat", "conflict", "broken", "remove"),
                (36, 8, 25, 10, 12, 4, 3, 4),
            )[0]
            self._send(order[number % len(order)], kind)

    def _send(self, site: Site, kind: str) -> None:
        self.kinds[kind] = self.kinds.get(kind, 0) + 1
        if kind == "broken":
            body = self.dice.choice(_BROKEN)
            self.broken.append(body)
            self._publish(body)
            return
        if kind == "repeat" and self._bodies:
            self._publish(json.dumps(self.dice.choice(self._bodies)).encode())
            return
        if kind == "conflict" and self._bodies:
            self._conflict()
            return
        if kind == "aliases":
            site.aliases = tuple(a for a in _ALIASES if self.dice.random() < 0.5)
        if kind in ("force", "renew"):
            document = command("renew", site=site.site_id, command_id=self._id(), force=kind == "force")
        elif kind == "remove":
            document = command("remove", site=site.site_id, command_id=self._id())
        else:
            aliases = [f"{alias}.{site.domain}" for alias in site.aliases]
            document = command(
                site=site.site_id, command_id=self._id(), domain=site.domain, aliases=aliases,
                server=site.door.reference(),
            )  # fmt: skip
        self._bodies.append(document)
        self._publish(json.dumps(document).encode())
        self.published[document["id"]] = Command(document["source"], document["id"])

    def _conflict(self) -> None:
        """An id that was used for something else; the other body is sent once or twice and rejected once."""
        old = self.dice.choice(self._bodies)
        if self.published[old["id"]].conflicts:
            return
        other = {**old, "data": {**old["data"], "requestedBy": "somebody else"}}
        for _ in range(self.dice.randint(1, 2)):
            self._publish(json.dumps(other).encode())
        self.published[old["id"]] = Command(old["source"], old["id"], conflicts=1)

    def _id(self) -> str:
        return f"{self.dice.getrandbits(64):016x}"

    def _publish(self, body: bytes) -> None:
        """Until it is confirmed: what a producer with an outbox of its own does. A lost confirm means a repetition."""
        while True:
            try:
                if self._channel is None:
                    url = self.dice.choice(self.urls)
                    self._connection = pika.BlockingConnection(pika.URLParameters(url))
                    self._channel = self._connection.channel()
                    self._channel.confirm_delivery()
                properties = pika.BasicProperties(
                    content_type="application/cloudevents+json", delivery_mode=2
                )
                self._channel.basic_publish("ssl.commands", "ssl.any", body, properties, mandatory=True)
            except (pika.exceptions.AMQPError, OSError):
                self._disconnect()
                time.sleep(0.2)
            else:
                self.sent += 1
                return

    def _disconnect(self) -> None:
        with contextlib.suppress(pika.exceptions.AMQPError, OSError):
            if self._connection is not None:
                self._connection.close()
        self._connection = self._channel = None
