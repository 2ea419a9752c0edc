"""An HTTPS proxy in front of Pebble that keeps Let's Encrypt's limits, fails on request and remembers what it saw.

It runs as threads of the lab's own process, so that tests read and set it directly; its sockets live in the lab's
network. The Host header is kept, so that the URLs which Pebble hands out lead back here.
"""

import http.client
import json
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from deploy.lab.acme_http import FrontServer, PlacedHTTPSConnection
from deploy.lab.acme_messages import Reply, Seen, path_of, read_object
from deploy.lab.ca_limits import CaLimits

CREATED, BELOW_ERRORS = 201, 300


@dataclass(slots=True)
class _Script:
    reply: Reply
    endpoint: str
    names: frozenset[str] | None
    client: str | None
    times: int | None

    def fits(self, seen: Seen) -> bool:
        return (
            self.endpoint in ("*", seen.endpoint)
            and self.names in (None, frozenset(seen.names))
            and self.client in (None, seen.client)
        )


class AcmeProxy:
    """The CA as its clients meet it.

    Attributes:
        limits: the buckets in force.
        offset_seconds: how far the CA's clock for limits is ahead of the machine's.
        caa_identities: by which names CAA records call this CA (RFC 8555 section 7.1.1); Pebble tells none.
        latency_seconds: waited before each answer.
        latency_of: the same for single clients, by address.
    """

    def __init__(
        self,
        make_socket: Callable[[], socket.socket],
        listen: tuple[str, int],
        upstream: tuple[str, int],
        identity: tuple[Path, Path, Path],
        limits: CaLimits,
    ) -> None:
        """Prepare the proxy.

        Args:
            make_socket: makes a TCP socket in the network where the proxy listens and Pebble is.
            listen: address and port to listen on.
            upstream: Pebble's address and port.
            identity: files of the root, the certificate and the key, for both sides.
            limits: the buckets.
        """
        self._make_socket, self._listen, self._upstream = make_socket, listen, upstream
        root, chain, key = identity
        self.server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.server_context.load_cert_chain(chain, key)
        self._client_context = ssl.create_default_context(cafile=str(root))
        self.limits = limits
        self.offset_seconds = 0.0
        self.caa_identities: tuple[str, ...] = ("ca.lab.test",)
        self.latency_seconds = 0.0
        self.latency_of: dict[str, float] = {}
        self._lock = threading.Lock()
        self._seen: list[Seen] = []
        self._scripts: list[_Script] = []
        self._failing: dict[str, tuple[str, str]] = {}
        self._orders: dict[str, Seen] = {}  # by the URL to finalize
        self._judged: set[str] = set()  # authorizations whose end has been counted
        self._server: FrontServer | None = None

    @property
    def directory_url(self) -> str:
        """Where clients start."""
        return f"https://{self._listen[0]}:{self._listen[1]}/dir"

    def now(self) -> float:
        """Give the CA's time in seconds since 1970."""
        return time.time() + self.offset_seconds

    def up(self) -> None:
        """Listen; nothing happens where it does already."""
        if self._server is None:
            listener = self._make_socket()
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(self._listen)
            listener.listen(128)
            self._server = FrontServer(self, listener)
            threading.Thread(target=self._server.serve_forever, args=(0.05,), name="acme-proxy").start()

    def down(self) -> None:
        """Stop listening and cut every connection: clients are refused, as in an outage."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def answer(
        self,
        reply: Reply,
        *,
        endpoint: str = "new-order",
        names: Iterable[str] | None = None,
        client: str | None = None,
        times: int | None = 1,
    ) -> None:
        """Answer the next requests by this reply instead of asking Pebble.

        Args:
            reply: what to say.
            endpoint: a value of ENDPOINTS, or "*".
            names: only orders of exactly these names.
            client: only requests from this address.
            times: how often; None until `answer_truly`.
        """
        with self._lock:
            wanted = None if names is None else frozenset(names)
            self._scripts.append(_Script(reply, endpoint, wanted, client, times))

    def fail_validation(self, name: str, kind: str, detail: str) -> None:
        """Let every validation of a name fail with this problem, whatever Pebble found (for the CA's own words)."""
        with self._lock:
            self._failing[name] = (kind, detail)

    def let_validate(self, name: str) -> None:
        """Let validations of a name end as Pebble finds, as before `fail_validation`."""
        with self._lock:
            self._failing.pop(name, None)

    def answer_truly(self) -> None:
        """Forget all scripted answers and failures."""
        with self._lock:
            self._scripts.clear()
            self._failing.clear()

    def requests(self, endpoint: str | None = None) -> list[Seen]:
        """Give what was seen, oldest first; of one endpoint only where one is given."""
        with self._lock:
            return [seen for seen in self._seen if endpoint in (None, seen.endpoint)]

    def orders(self, *names: str) -> list[Seen]:
        """Give the orders that the CA took: all, or those of exactly these names."""
        return self._accepted("new-order", names)

    def certificates(self, *names: str) -> list[Seen]:
        """Give the finalized orders, that is the certificates: all, or those of exactly these names."""
        return self._accepted("finalize", names)

    def orders_by_set(self) -> Counter[tuple[str, ...]]:
        """Count the orders that the CA took per exact set of names."""
        return Counter(seen.names for seen in self.orders())

    def refusals(self) -> list[Seen]:
        """Give the requests that the proxy refused by itself: limits and scripted answers."""
        return [seen for seen in self.requests() if seen.refused]

    def _accepted(self, endpoint: str, names: tuple[str, ...]) -> list[Seen]:
        wanted = tuple(sorted(names))
        taken = [seen for seen in self.requests(endpoint) if seen.status < BELOW_ERRORS and not seen.refused]
        return [seen for seen in taken if wanted in ((), seen.names)]

    # --- what the handler calls, one request at a time --------------------------------------------------------------

    def connect(self) -> http.client.HTTPSConnection:
        """Open a connection to Pebble."""
        return PlacedHTTPSConnection(self._make_socket, *self._upstream, self._client_context)

    def admit(self, seen: Seen, document: dict[str, Any], path: str) -> tuple[Seen, Reply | None]:
        """Say whose request this is, and what to answer at once, if anything."""
        with self._lock:
            if seen.endpoint == "finalize" and (order := self._orders.get(path)):
                seen = replace(seen, names=order.names, account=order.account)
            if scripted := self._scripted(seen):
                return seen, scripted
            refusal = None
            if seen.endpoint == "new-order":
                refusal = self.limits.new_order(seen.account, seen.names, self.now())
            elif seen.endpoint == "new-account" and not document.get("onlyReturnExisting"):
                refusal = self.limits.new_account(seen.client, self.now())
            return seen, Reply.refusal(refusal) if refusal else None

    def note(self, seen: Seen, status: int, body: bytes, *, refused: bool) -> bytes:
        """Remember an answer and count what it means for the limits; give the body to send on."""
        document = read_object(body)
        with self._lock:
            if seen.endpoint == "directory" and document and not refused:
                meta = {**document.get("meta", {}), "caaIdentities": list(self.caa_identities)}
                body = json.dumps({**document, "meta": meta}).encode()
            elif seen.endpoint == "authorization" and not refused:
                body = self._note_authorization(seen, document, body)
            elif not refused:
                self._note_order(seen, status, document)
            detail = str(document.get("detail", ""))
            self._seen.append(replace(seen, status=status, refused=refused, detail=detail))
        return body

    def _scripted(self, seen: Seen) -> Reply | None:
        for script in self._scripts:
            if script.fits(seen):
                if script.times is not None:
                    script.times -= 1
                    if script.times <= 0:
                        self._scripts.remove(script)
                return script.reply
        return None

    def _note_order(self, seen: Seen, status: int, document: dict[str, Any]) -> None:
        if seen.endpoint == "new-order":
            if status == CREATED:
                self._orders[path_of(document["finalize"])] = seen
            else:
                self.limits.order_not_made(seen.account, seen.names, self.now())
        elif seen.endpoint == "new-account" and status != CREATED:
            self.limits.account_not_made(seen.client, self.now())
        elif seen.endpoint == "finalize" and status < BELOW_ERRORS:
            self.limits.issued(seen.names, self.now())

    def _note_authorization(self, seen: Seen, document: dict[str, Any], body: bytes) -> bytes:
        name = str(document.get("identifier", {}).get("value", ""))
        if name in self._failing and any(
            item.get("status") != "pending" for item in document.get("challenges", [])
        ):
            kind, detail = self._failing[name]
            error = {"type": f"urn:ietf:params:acme:error:{kind}", "detail": detail, "status": 400}
            document["status"] = "invalid"
            for item in document["challenges"]:
                if item.get("status") != "pending":
                    item.update(status="invalid", error=error)
            body = json.dumps(document).encode()
        key = str(document.get("challenges", [{}])[0].get("url", ""))
        if document.get("status") in ("valid", "invalid") and key not in self._judged:
            self._judged.add(key)
            if document["status"] == "invalid":
                self.limits.failed(seen.account, name, self.now())
            else:
                self.limits.validated(seen.account, name)
        return body
