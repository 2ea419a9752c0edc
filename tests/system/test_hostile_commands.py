"""Commands of somebody who wants a shell: on the server nothing happens outside certpilot's own folders.

Two lines of defence, each tested alone: strict fields, which hardly anything of this gets through, and words that are
quoted on the way to the server and checked again by the script there.
"""

import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from contracts.commands import read_command
from contracts.envelope import SetAside
from deploy.lab.lab import Lab
from deploy.lab.server import CustomerServer
from tests.support.commands import command, publish
from tests.support.installation import DemoSite, Installation, new_site
from tests.support.waiting import until
from workers.core.model import Authenticator, Fence, JobId, RunSpec, Server
from workers.edges.errors import EdgeError
from workers.edges.server.agent import ServerAgent
from workers.edges.server.ssh import SshConnection

MARK = "PWNED"
_TOUCH = f"touch /tmp/{MARK} /root/{MARK} /etc/{MARK}"
PAYLOADS = (
    f"$({_TOUCH})", f"`{_TOUCH}`", f"; {_TOUCH} ;", f"x.example.com; {_TOUCH}", f"| {_TOUCH}", f"&& {_TOUCH}", f"& {_TOUCH} &",
    f"' ; {_TOUCH} ; '", f'" ; {_TOUCH} ; "', f"x\n{_TOUCH}\n", f"x\r\n{_TOUCH}", f"x\x00; {_TOUCH}", f"x\x1b[2J; {_TOUCH}",
    f"-oProxyCommand={_TOUCH}", f"--deploy-hook={_TOUCH}", "--config=/etc/shadow", "-rf", "--", "-", "*", "~", "$HOME", "${IFS}",
    f"../../../../etc/{MARK}", f"/etc/{MARK}", f"..%2f..%2fetc%2f{MARK}", f"....//....//etc/{MARK}", "..", "/", "\\..\\..",
    f"x.example.com/../../{MARK}", f"x.example.com%00{MARK}", "%s%s%s%n", "{{7*7}}", "'; drop table job; --",
    f"\u2179\uff0eexample\uff0ecom\uff1b{_TOUCH}", f"x\u3002example\u3002com${{IFS}}{MARK}", "xn--a.example.com\u202e", "x\u2028y.example.com",
    "\uff41" * 300, "a" * 70_000, "x" * 254 + ".example.com", "\ufeffx.example.com", "x.example.com\u0000", "\ud800",
)  # fmt: skip
"""What would do harm where a field reached a shell, an option, a path, a format, a query or a terminal as it came."""

_OF_FREE_TEXT = 4
FIELDS = ("siteId", "domain", "aliases", "requestedBy", "host", "username", "hostKey", "publicAddresses", "id", "source",
          "subject", "type", "time", "unknown")  # fmt: skip


def hostile(server: CustomerServer, field: str, payload: str, number: int) -> dict[str, Any]:
    """A valid command for a name that points nowhere, with one field spoilt."""
    domain = f"hostile-{FIELDS.index(field)}-{number}.example.com"
    host = {"host": server.host, "hostKey": server.host_key}
    document = command(site=f"site_hostile_{field}_{number}", domain=domain, server=host)
    match field:
        case "host" | "username" | "hostKey":
            host[field] = payload
        case "publicAddresses":
            document["data"]["server"] = host | {field: [payload]}
        case "aliases":
            document["data"][field] = [payload]
        case "siteId" | "domain" | "requestedBy":
            document["data"][field] = payload
        case _:
            document[field] = payload
    if field == "siteId":
        document["subject"] = payload
    return document


@dataclass
class Trap:
    """What a server and this machine look like; `sprung` tells what is different now."""

    server: CustomerServer

    def __post_init__(self) -> None:
        self.server.run(["touch", "/root/before"])
        self._programs = self._running()

    def sprung(self) -> list[str]:
        """Files that changed on the server outside of certpilot's folders and the logs, new programs, and any mark."""
        known = ("/var/lib/certpilot", "/var/log", "/var/cache/nginx", "/root/before")
        # For every site a file is put into the web root and taken away again: the folder's own times tell of it.
        changed = [
            path
            for path in self.server.written_since("/root/before")
            if not path.startswith(known) and path != "/var/www/html"
        ]
        marks = self._lines(f"find / -xdev -name '*{MARK}*' -o -path '/run/*{MARK}*'")
        here = [
            str(path)
            for folder in (Path.cwd(), Path(tempfile.gettempdir()), Path.home(), Path("/etc"))
            for path in folder.glob(f"*{MARK}*")
        ]
        return [*changed, *marks, *here, *sorted(self._running() - self._programs)]

    def _lines(self, line: str) -> list[str]:
        return self.server.run(["sh", "-c", line]).stdout.splitlines()

    def _running(self) -> set[str]:
        return {
            os.fsdecode(Path(f"/proc/{pid}/exe").resolve().name.encode())
            for pid in self.server.cell.processes()
            if Path(f"/proc/{pid}/exe").exists()
        } - {"sshd", "sshd-session", "sh", "dash", "cell_init.py"}


@pytest.fixture
def settled(lab: Lab, certpilot: Installation) -> DemoSite:
    """A site that waits for its DNS: certpilot has been on the server, and its script lies there."""
    site = new_site(lab, vhosts=False, point=False)
    certpilot.issue(site)
    certpilot.wait_for_event(site, "waiting")
    return site


def test_hostile_commands_change_nothing_on_the_server(
    lab: Lab, certpilot: Installation, settled: DemoSite
) -> None:
    """Every field with every payload, published as any producer could; those that are valid run on the real server."""
    trap = Trap(lab.server)
    cases = [(field, number) for field in FIELDS for number in range(len(PAYLOADS))]
    bodies = [json.dumps(hostile(lab.server, field, PAYLOADS[n], n)).encode() for field, n in cases]
    admitted = Counter(field for (field, _), body in zip(cases, bodies, strict=True) if _is_admissible(body))
    # Free text may hold nearly anything. Of the rest a byte order mark before a name passes, as the name without it, and
    # site ids of dots and dashes.
    free = {"id", "source", "requestedBy", "unknown"}
    assert {field: n for field, n in admitted.items() if field not in free} == {
        "siteId": 4,
        "domain": 1,
        "aliases": 1,
        "host": 1,
    }
    last = new_site(lab, vhosts=False, point=False)
    publish(certpilot.rabbitmq_url, *_chosen(cases, bodies, free))
    certpilot.issue(last)
    # One intake takes them in their order: what came before the last is answered.
    certpilot.wait_for_event(last, "pending")
    at_work = "select from job where state in ('queued', 'running')"
    until(lambda: certpilot.conn.execute(at_work).fetchone() is None, seconds=60, what="every job's turn")
    assert trap.sprung() == []
    codes = certpilot.conn.execute(
        "select distinct error_code from site_ssl where error_code is not null"
    ).fetchall()
    assert {"NO_MATCHING_VHOST"} <= {code for (code,) in codes}, codes


def _is_admissible(body: bytes) -> bool:
    try:
        return read_command(body, "application/cloudevents+json", None).command is not None
    except SetAside:
        return False


def _chosen(cases: Sequence[tuple[str, int]], bodies: Sequence[bytes], free: set[str]) -> Iterator[bytes]:
    """All but most of those with hostile free text: each of them takes its turn on the server."""
    taken: Counter[str] = Counter()
    for (field, _), body in zip(cases, bodies, strict=True):
        if field in free and _is_admissible(body):
            taken[field] += 1
            if taken[field] > _OF_FREE_TEXT:
                continue
        yield body


@pytest.fixture
def agent(lab: Lab, settled: DemoSite) -> Iterator[ServerAgent]:
    del settled
    server = lab.server
    target = Server(server.host, host_key=server.host_key)
    with SshConnection.connect(target, key_files=[lab.worker_key_file], known_hosts_file=None) as connection:
        yield ServerAgent(connection, target, Fence(int(time.time() * 1000)))


def test_words_that_passed_every_check_of_ours_are_still_words_on_the_server(
    lab: Lab, agent: ServerAgent
) -> None:
    """As if the contract had let them through: the script gets each as one word, and refuses it."""
    trap = Trap(lab.server)
    for payload in PAYLOADS:
        word = payload.encode("utf-8", "replace").decode()[:4000]
        for ask in (
            lambda w=word: agent.look(JobId(w), 0),
            lambda w=word: agent.look(JobId("j"), 0, w),
            lambda w=word: agent.served(w),
            lambda w=word: agent.probe(JobId("j"), w, [w]),
            lambda w=word: agent.start(JobId("j"), 1, _spec(w)),
        ):
            with pytest.raises(EdgeError):
                ask()
    assert trap.sprung() == []


def _spec(word: str) -> RunSpec:
    return RunSpec(
        directory_url=word, email=word, cert_name=word, names=(word,), webroots=(word,),
        authenticator=Authenticator.WEBROOT,
    )  # fmt: skip
