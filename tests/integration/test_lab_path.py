"""The hand-made path in the lab: certbot over ssh, from an empty server to a certificate that verifies."""

import re
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.lab.acme_messages import Reply
from deploy.lab.lab import Lab
from deploy.lab.server import CustomerServer
from tests.support.waiting import until


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(servers=2, broker=False, database=False) as started:
        yield started


def certbot(lab: Lab, server: CustomerServer, *arguments: str) -> subprocess.CompletedProcess[str]:
    options = ["-n", "--agree-tos", "--register-unsafely-without-email", "--server", lab.ca.directory_url]
    command = lab.ssh_command(server, "certbot", "run", *options, *arguments)
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def served_names(server: CustomerServer, roots: Path, name: str) -> set[str]:
    """Shake hands with a server for a name, verifying the chain, and give the names of its certificate."""
    context = ssl.create_default_context(cafile=str(roots))
    with (
        socket.create_connection((server.host, 443), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=name) as tls,
    ):
        certificate = tls.getpeercert()
    assert certificate is not None
    return {str(value) for kind, value in certificate["subjectAltName"] if kind == "DNS"}


def test_certbot_run_by_hand_over_ssh_ends_in_a_certificate_that_verifies(lab: Lab) -> None:
    names = ("shop.test", "www.shop.test")
    root = lab.server.add_site(*names)
    lab.point(*names)
    done = certbot(
        lab, lab.server, "-a", "webroot", "-i", "nginx", "--nginx-sleep-seconds", "0", "--redirect",
        "-w", root, "-d", names[0], "-d", names[1],
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert served_names(lab.server, lab.ca.roots_file, names[1]) == set(names)
    assert [order.names for order in lab.ca.production.orders()] == [names]
    assert len(lab.ca.production.certificates(*names)) == 1


def test_two_servers_take_the_same_ports(lab: Lab) -> None:
    second = lab.servers[1]
    second.add_site("other.test")
    lab.point("other.test", to=second)
    done = certbot(lab, second, "--nginx", "-d", "other.test")
    assert done.returncode == 0, done.stdout + done.stderr
    assert served_names(second, lab.ca.roots_file, "other.test") == {"other.test"}


def test_scripted_refusal_reaches_certbot_and_makes_no_order(lab: Lab) -> None:
    lab.server.add_site("busy.test")
    lab.point("busy.test")
    lab.ca.production.answer(Reply.service_busy(), names=["busy.test"])
    done = certbot(lab, lab.server, "--nginx", "-d", "busy.test")
    assert done.returncode == 1
    assert "Service busy; retry later." in done.stderr + lab.server.read(
        "/var/log/letsencrypt/letsencrypt.log"
    )
    assert lab.ca.production.orders("busy.test") == []
    assert [seen.status for seen in lab.ca.production.refusals() if seen.names == ("busy.test",)] == [503]


def test_a_name_without_records_does_not_exist_for_the_ca(lab: Lab) -> None:
    lab.server.add_site("nowhere.test")
    done = certbot(lab, lab.server, "--nginx", "-d", "nowhere.test")
    assert done.returncode == 1
    assert "nowhere.test" in done.stdout
    assert {query.client for query in lab.dns.queries("nowhere.test")} == {lab.network.authority}


def test_power_cut_ends_every_process_and_keeps_the_disk(lab: Lab) -> None:
    server = lab.servers[1]
    server.write("/etc/kept", "kept")
    server.write("/run/gone", "gone")
    server.run(["sh", "-c", "(sleep 1000 & setsid sleep 1000) > /dev/null 2>&1 &"])
    inside = until(lambda: server.cell.processes("sleep"), what="the programs' start")
    boot_id = server.read("/proc/sys/kernel/random/boot_id")
    server.reboot()
    assert [pid for pid in inside if Path(f"/proc/{pid}").exists()] == []
    assert server.read("/etc/kept") == "kept"
    assert not server.exists("/run/gone")
    assert server.read("/proc/sys/kernel/random/boot_id") != boot_id
    assert ssh_answers(lab, server)


def test_firewall_tells_the_worker_from_the_authority(lab: Lab) -> None:
    lab.server.block(80, source=lab.network.host, how="reject")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((lab.server.host, 80), timeout=5)
    lab.servers[1].run(
        ["python3", "-c", f"import socket; socket.create_connection(('{lab.server.host}', 80), 5)"]
    )
    lab.server.block(80, source=lab.network.host)
    lab.server.unblock(80)
    socket.create_connection((lab.server.host, 80), timeout=5).close()


def test_dropped_port_is_silent(lab: Lab) -> None:
    lab.server.block(80)
    with pytest.raises(TimeoutError):
        socket.create_connection((lab.server.host, 80), timeout=0.3)
    lab.server.unblock()


def test_other_keys_and_passwords_are_refused(lab: Lab, tmp_path: Path) -> None:
    key = tmp_path / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    command = lab.ssh_command(lab.server, "true")
    command[command.index("-i") + 1] = str(key)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 255
    assert "Permission denied (publickey)" in done.stderr


def test_user_of_the_agent_can_run_the_agent_and_nothing_else(lab: Lab) -> None:
    lab.install_agent(lab.server)
    shell, agent = (
        subprocess.run(
            lab.ssh_command(lab.server, command, user="certpilot"),
            capture_output=True,
            text=True,
            check=False,
        )
        for command in ("id", "version")
    )
    assert "uid=" not in shell.stdout
    assert agent.stdout.splitlines()[-1:] == ["result=OK"], agent.stderr


def test_the_servers_own_name_resolves_at_once(lab: Lab) -> None:
    script = "import socket, time; a = time.monotonic(); socket.getfqdn(); print(time.monotonic() - a)"
    assert float(lab.server.run(["/usr/bin/python3", "-c", script]).stdout) < 1


def test_nothing_of_the_machine_shows_on_a_server(lab: Lab) -> None:
    assert re.findall(r"server_name (.*);", lab.servers[1].run(["nginx", "-T"]).stdout)[:1] == ["_"]
    assert lab.server.run(["hostname"]).stdout == "server-1\n"
    assert lab.servers[1].run(["ls", "-A", "/home", "/root"]).stdout.split() == ["/home:", "/root:"]
    marker = lab.directory / "marker"
    marker.touch()
    assert not lab.server.exists(str(marker))


def ssh_answers(lab: Lab, server: CustomerServer) -> bool:
    done = subprocess.run(lab.ssh_command(server, "true"), capture_output=True, check=False)
    return done.returncode == 0
