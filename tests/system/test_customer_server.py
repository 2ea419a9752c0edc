"""The agent on customer servers of the lab: real certbot, nginx, sudo and sshd, as root and through the sudo rule."""

import http.client
import shlex
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509

from contracts.codes import Code
from deploy.lab.lab import Lab
from deploy.lab.server import CustomerServer
from tests.support.agent import wait_for
from workers.core.model import Authenticator, Fence, JobId, Look, RunSpec, RunState, Server, Step
from workers.core.preflight.server_facts import parse_server_facts
from workers.edges.errors import EdgeError, StaleFenceError
from workers.edges.server.agent import ServerAgent
from workers.edges.server.ssh import SshConnection

FOLDER = Path(__file__).parents[2] / "deploy" / "customer-server"
TOKEN = "probe-token-0123456789"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(servers=2, broker=False, database=False) as started:
        install(started, started.servers[1])
        yield started


def install(lab: Lab, server: CustomerServer, *options: str) -> str:
    for file in ("install.sh", "certpilot-agent.sh"):
        server.write(f"/root/customer-server/{file}", (FOLDER / file).read_text())
    server.write("/root/worker.pub", f"# the worker\n{lab.worker_key.public} somebody@somewhere\n")
    return server.run(["sh", "/root/customer-server/install.sh", *options, "/root/worker.pub"]).stdout


def connect(lab: Lab, server: CustomerServer, user: str) -> SshConnection:
    target = Server(server.host, username=user, host_key=server.host_key)
    return SshConnection.connect(target, key_files=[lab.worker_key_file], known_hosts_file=None)


def agent(connection: SshConnection, fence: int = 5) -> ServerAgent:
    return ServerAgent(connection, connection.server, Fence(fence))


def over(server: ServerAgent, job: JobId, attempt: int = 1, name: str | None = None) -> Look:
    def look() -> Look | None:
        seen = server.look(job, attempt, name)
        return None if seen.run is RunState.ALIVE else seen

    found = wait_for(look, "certbot is done", 60)
    assert isinstance(found, Look)
    return found


def names_in(pem: bytes) -> set[str]:
    names = (
        x509.load_pem_x509_certificate(pem)
        .extensions.get_extension_for_class(x509.SubjectAlternativeName)
        .value
    )
    return set(names.get_values_for_type(x509.DNSName))


def site(lab: Lab, server: CustomerServer, *names: str) -> str:
    root = server.add_site(*names)
    lab.point(*names, to=server)
    return root


def webroot_spec(lab: Lab, root: str, *names: str, dry_run: bool = False, **more: object) -> RunSpec:
    directory = lab.ca.staging_directory_url if dry_run else lab.ca.directory_url
    base = {"webroots": (root,) * len(names), "authenticator": Authenticator.WEBROOT, "dry_run": dry_run}
    return RunSpec(directory, None, names[0], names, **(base | more))  # type: ignore[arg-type]


@pytest.fixture(params=["root", "certpilot"])
def user(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def server(lab: Lab, user: str) -> CustomerServer:
    return lab.servers[0 if user == "root" else 1]


@pytest.fixture
def connection(lab: Lab, server: CustomerServer, user: str) -> Iterator[SshConnection]:
    with connect(lab, server, user) as opened:
        yield opened


# --- certbot ---------------------------------------------------------------------------------------------------------


def test_webroot_run_issues_installs_and_serves(
    lab: Lab, server: CustomerServer, connection: SshConnection, user: str
) -> None:
    names = (f"shop-{user}.test", f"www.shop-{user}.test")
    spec = webroot_spec(lab, site(lab, server, *names), *names)
    host, job = agent(connection), JobId(f"webroot-{user}")
    assert host.start(job, 1, spec).run is RunState.ALIVE
    done = over(host, job, 1, names[0])
    assert (done.run, done.exit_code) == (RunState.ENDED, 0)
    assert done.certificate_pem is not None
    assert names_in(done.certificate_pem) == set(names)
    served = host.served(names[1])["127.0.0.1"]
    assert ssl.PEM_cert_to_DER_cert(
        served.decode().partition("-----END")[0] + "-----END CERTIFICATE-----"
    ) == ssl.PEM_cert_to_DER_cert(done.certificate_pem.decode())
    output = host.collect(job, 1)
    assert "Successfully received certificate." in output.stdout
    assert "POST" in output.debug_log
    assert len(lab.ca.production.orders(*names)) == 1
    if user != "root":
        return
    # Not due: nothing is ordered, and the log of this run is not the one before.
    host.start(job, 2, spec)
    assert over(host, job, 2).exit_code == 0
    assert "not yet due" in host.collect(job, 2).stdout
    assert "new-order" not in host.collect(job, 2).debug_log
    assert len(lab.ca.production.orders(*names)) == 1
    # Forced: another certificate. Installing alone: none.
    host.start(job, 3, webroot_spec(lab, spec.webroots[0], *names, force=True))
    forced = over(host, job, 3, names[0])
    assert forced.certificate_pem not in {None, done.certificate_pem}
    host.start(job, 4, webroot_spec(lab, spec.webroots[0], *names, only_install=True))
    installed = over(host, job, 4, names[0])
    assert (installed.exit_code, installed.certificate_pem) == (0, forced.certificate_pem)
    assert len(lab.ca.production.orders(*names)) == 2


@pytest.mark.parametrize(
    "user", ["root"], indirect=True
)  # once is enough, the other way in differs no further
def test_nginx_run_issues_and_installs(
    lab: Lab, server: CustomerServer, connection: SshConnection, user: str
) -> None:
    name = f"proxied-{user}.test"
    site(lab, server, name)
    host, job = agent(connection), JobId(f"nginx-{user}")
    host.start(job, 1, RunSpec(lab.ca.directory_url, "ops@lab.test", name, (name,), redirect=False))
    seen = {Step.REQUESTING, Step.INSTALLING}
    stages = set()
    while (
        look := host.look(job, 1)
    ).run is RunState.ALIVE:  # the lock is certbot's own, on every look until its end
        stages.add(look.stage)
    assert (look.exit_code, Step.REQUESTING in stages, stages <= seen) == (0, True, True)


@pytest.mark.parametrize(
    "user", ["certpilot"], indirect=True
)  # once is enough, the other way in differs no further
def test_dry_run_spends_nothing_and_keeps_nothing(
    lab: Lab, server: CustomerServer, connection: SshConnection, user: str
) -> None:
    name = f"dry-{user}.test"
    root = site(lab, server, name)
    host, job = agent(connection), JobId(f"dry-{user}")
    host.start(job, 1, webroot_spec(lab, root, name, dry_run=True))
    done = over(host, job, 1, name)
    assert (done.exit_code, done.certificate_pem) == (0, None)
    assert "dry run was successful" in host.collect(job, 1).stdout
    assert lab.ca.production.orders(name) == []


@pytest.mark.parametrize(
    "user", ["root"], indirect=True
)  # once is enough, the other way in differs no further
def test_refused_challenge_leaves_its_reason(
    lab: Lab, server: CustomerServer, connection: SshConnection, user: str
) -> None:
    name = f"nowhere-{user}.test"
    root = server.add_site(name)
    host, job = agent(connection), JobId(f"nowhere-{user}")
    host.start(job, 1, webroot_spec(lab, root, name))
    assert over(host, job).exit_code == 1
    output = host.collect(job, 1)
    assert name in output.stdout
    assert "urn:ietf:params:acme:error" in output.debug_log


@pytest.mark.parametrize(
    "user", ["certpilot"], indirect=True
)  # once is enough, the other way in differs no further
def test_early_refusal_leaves_its_log(
    lab: Lab, server: CustomerServer, connection: SshConnection, user: str
) -> None:
    """Somebody else's certbot holds the host-wide lock: the debug log goes to a directory of its own."""
    name = f"busy-{user}.test"
    root = site(lab, server, name)
    hold = "import fcntl,os,sys; os.makedirs('/etc/letsencrypt',exist_ok=True); f=open('/etc/letsencrypt/.certbot.lock','w'); fcntl.lockf(f,fcntl.LOCK_EX); print('held',flush=True); sys.stdin.read()"
    with subprocess.Popen(
        server.cell.enter(["python3", "-c", hold]), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        host, job = agent(connection), JobId(f"busy-{user}")
        assert host.look(job, 0).certbot_busy
        host.start(job, 1, webroot_spec(lab, root, name))
        assert over(host, job).exit_code == 1
        # A kill would reach what entered the server and not what it started there, and the lock would stay held.
        holder.communicate(timeout=20)
    output = host.collect(job, 1)
    assert "Another instance of Certbot is already running." in output.stderr
    assert "Another instance" in output.debug_log


def test_run_outlives_the_connection_and_is_stopped_by_another(
    lab: Lab, server: CustomerServer, user: str
) -> None:
    name = f"slow-{user}.test"
    root = site(lab, server, name)
    server.block(80)  # the CA waits for an answer that does not come
    job = JobId(f"slow-{user}")
    try:
        with connect(lab, server, user) as first:
            agent(first, 7).start(job, 1, webroot_spec(lab, root, name))
        with connect(lab, server, user) as second:
            assert agent(second, 8).look(job, 1).run is RunState.ALIVE
            with pytest.raises(StaleFenceError):
                agent(second, 7).stop(job, 1)
            wait_for(lambda: agent(second, 8).stop(job, 1), "the run has noted its pid, and is signalled")
            assert over(agent(second, 8), job).exit_code == 143
    finally:
        server.unblock()
        server.run(["rm", "/var/lib/certpilot/fence"])


def test_power_cut_is_seen_as_a_reboot(lab: Lab) -> None:
    server = lab.servers[0]
    name = "rebooted.test"
    root = site(lab, server, name)
    server.block(80)
    job = JobId("rebooted")
    with connect(lab, server, "root") as connection:
        agent(connection).start(job, 1, webroot_spec(lab, root, name))
        wait_for(lambda: server.exists("/var/lib/certpilot/jobs/rebooted.1/pid"), "certbot runs")
    server.reboot()
    server.unblock()
    with connect(lab, server, "root") as connection:
        seen = agent(connection).look(job, 1)
        assert (seen.run, seen.rebooted, seen.begun) == (RunState.DEAD, True, True)


# --- facts and the probe ---------------------------------------------------------------------------------------------


def test_facts_are_read_by_the_preflight(
    lab: Lab, server: CustomerServer, connection: SshConnection, user: str
) -> None:
    facts = parse_server_facts(agent(connection).inspect())
    assert facts.complete
    assert (facts.user_id, facts.nginx_running, facts.nginx_test_exit) == (0, True, 0)
    assert facts.certbot_path == "/usr/bin/certbot"
    assert facts.certbot_version
    assert facts.certbot_plugins == ("nginx",)
    assert facts.port80_listeners == ("nginx",)
    assert server.host in facts.addresses
    assert facts.disk_free_kb.keys() == {"etc", "var", "log"}
    assert "server_name" in facts.nginx_config


def test_probe_is_served_and_gone(
    lab: Lab, server: CustomerServer, connection: SshConnection, user: str
) -> None:
    name = f"probed-{user}.test"
    root = site(lab, server, name)
    host, job = agent(connection), JobId(f"probe-{user}")
    (probe,) = host.probe(job, TOKEN, [root])
    asked = http.client.HTTPConnection(server.host, timeout=10)
    asked.request("GET", f"/.well-known/acme-challenge/{TOKEN}", headers={"Host": name})
    assert (probe.placed, asked.getresponse().read().decode()) == (True, probe.body)
    asked.close()
    host.unprobe(job, TOKEN)
    assert not server.exists(f"{root}/.well-known")


# --- the user with one sudo rule -------------------------------------------------------------------------------------


def ssh(
    lab: Lab, *words: str, user: str = "certpilot", options: tuple[str, ...] = ()
) -> "subprocess.CompletedProcess[str]":
    server = lab.servers[1]
    fixed = [
        "-F",
        "none",
        "-i",
        str(lab.worker_key_file),
        "-o",
        f"UserKnownHostsFile={lab.known_hosts_file}",
        "-o",
        "BatchMode=yes",
    ]
    return subprocess.run(
        ["ssh", *fixed, *options, f"{user}@{server.host}", *words],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize(
    "command",
    [
        "id", "sh", "", "touch /tmp/pwned", "sudo -n id", "sudo -n /usr/local/sbin/certpilot-agent; touch /tmp/pwned",
        "sudo -n /usr/local/sbin/certpilot-agent look 1 j 0 && touch /tmp/pwned", "look 1 j $(touch /tmp/pwned)",
        "look 1 j 0\ntouch /tmp/pwned", "start 1 j 1 '--pre-hook=touch /tmp/pwned'", "scp -t /tmp", "/usr/lib/openssh/sftp-server",
    ],
)  # fmt: skip
def test_key_opens_nothing_but_the_agent(lab: Lab, command: str) -> None:
    done = ssh(lab, *([command] if command else []))
    assert "uid=" not in done.stdout
    assert done.stdout.splitlines()[-1] in {"result=USAGE", "result=STALE"}
    assert not lab.servers[1].exists("/tmp/pwned")


def test_key_gets_no_terminal_no_forwarding_and_no_file_transfer(lab: Lab, tmp_path: Path) -> None:
    assert "PTY allocation request failed" in ssh(lab, options=("-tt",)).stderr
    forwarded = ssh(lab, "x", options=("-W", "127.0.0.1:22"))
    assert "administratively prohibited" in forwarded.stderr
    sftp = [
        "sftp",
        "-F",
        "none",
        "-b",
        "/dev/null",
        "-i",
        str(lab.worker_key_file),
        "-o",
        f"UserKnownHostsFile={lab.known_hosts_file}",
    ]
    assert subprocess.run(
        [*sftp, f"certpilot@{lab.servers[1].host}"], capture_output=True, timeout=30, check=False
    ).returncode


@pytest.mark.parametrize(
    "command",
    [
        ["id"],
        ["/bin/sh", "-c", "id"],
        ["-E", "/usr/local/sbin/certpilot-agent", "version"],
        ["CERTPILOT_HOME=/tmp/x", "/usr/local/sbin/certpilot-agent", "version"],
    ],
)
def test_sudo_rule_allows_the_agent_alone(lab: Lab, command: list[str]) -> None:
    """Even with a shell as that user, sudo lets it run nothing else and set no variable of ours."""
    server = lab.servers[1]
    done = server.run(["runuser", "-u", "certpilot", "--", "sudo", "-n", *command], check=False)
    assert done.returncode
    assert not server.exists("/tmp/x")
    kept = server.run(["runuser", "-u", "certpilot", "--", "env", "CERTPILOT_HOME=/tmp/x", "PATH=/tmp", "/usr/bin/sudo", "-n",
                       "/usr/local/sbin/certpilot-agent", "version"])  # fmt: skip
    assert kept.stdout == "agent=1\nresult=OK\n"
    assert not server.exists("/tmp/x")


def test_install_twice_is_once(lab: Lab) -> None:
    server = lab.servers[1]
    files = [
        "/usr/local/sbin/certpilot-agent",
        "/etc/sudoers.d/certpilot-certpilot",
        "/home/certpilot/.ssh/authorized_keys",
    ]
    before = server.run(["stat", "-c", "%n %U %a %Y %i", *files]).stdout
    assert "wrote" not in install(lab, server)
    assert server.run(["stat", "-c", "%n %U %a %Y %i", *files]).stdout == before
    assert [line.split()[1:3] for line in before.splitlines()] == [
        ["root", "755"],
        ["root", "440"],
        ["root", "644"],
    ]
    assert server.run(["ls", "/etc/sudoers.d"]).stdout.split() == ["README", "certpilot-certpilot"]


def test_install_replaces_our_keys_and_leaves_others(lab: Lab) -> None:
    server = lab.servers[0]
    server.run(["useradd", "-m", "-p", "*", "deploy"])
    server.run(["install", "-d", "-o", "deploy", "-m", "700", "/home/deploy/.ssh"])
    server.write("/home/deploy/.ssh/authorized_keys", "ssh-ed25519 AAAAtheirs somebody\n")
    install(lab, server, "--user", "deploy", "--from", "203.0.113.1")
    with pytest.raises(EdgeError) as caught:
        connect(lab, server, "deploy")
    assert caught.value.code is Code.SSH_AUTH_FAILED
    install(lab, server, "--user", "deploy")
    lines = server.read("/home/deploy/.ssh/authorized_keys").splitlines()
    assert (len(lines), lines[0]) == (2, "ssh-ed25519 AAAAtheirs somebody")
    with connect(lab, server, "deploy") as connection:
        assert agent(connection).look(JobId("j"), 0).run is RunState.ABSENT


@pytest.mark.parametrize(
    "arguments",
    [["--user", "root", "/root/worker.pub"], ["--user", "a b", "/root/worker.pub"], ["--user", "x\ny ALL=(ALL) ALL", "/root/worker.pub"],
     ["--from", '"', "/root/worker.pub"], ["/root/missing"], [], ["/etc/passwd"], ["/root/options.pub"]],
)  # fmt: skip
def test_install_refuses_what_it_does_not_understand(lab: Lab, arguments: list[str]) -> None:
    server = lab.servers[1]
    server.write("/root/options.pub", f'command="/bin/sh" {lab.worker_key.public}\n')
    before = server.run(["sh", "-c", "cat /home/*/.ssh/authorized_keys /etc/sudoers.d/*"]).stdout
    assert server.run(["sh", "/root/customer-server/install.sh", *arguments], check=False).returncode in {
        1,
        2,
    }
    assert server.run(["sh", "-c", "cat /home/*/.ssh/authorized_keys /etc/sudoers.d/*"]).stdout == before


def account(lab: Lab, name: str, shell: str) -> None:
    server = lab.servers[0]
    server.run(["useradd", "-m", "-p", "*", "-s", shell, name])
    server.write(f"/home/{name}/.ssh/authorized_keys", f"{lab.worker_key.public}\n")


@pytest.mark.parametrize(
    ("name", "shell", "word"),
    [("nosudo", "/bin/bash", "sudo"), ("nologin", "/usr/sbin/nologin", "not available")],
)
def test_user_without_the_rule_is_permission_denied(lab: Lab, name: str, shell: str, word: str) -> None:
    account(lab, name, shell)
    with connect(lab, lab.servers[0], name) as connection:
        for command in (lambda: agent(connection).look(JobId("j"), 0), agent(connection).inspect):
            with pytest.raises(EdgeError) as caught:
                command()
            assert (caught.value.code, caught.value.sent) == (Code.PERMISSION_DENIED, False)
            assert word in caught.value.message


def test_installed_script_that_is_too_old_says_what_to_do(lab: Lab) -> None:
    server = lab.servers[1]
    text = server.read("/usr/local/sbin/certpilot-agent")
    try:
        server.write(
            "/usr/local/sbin/certpilot-agent", text.replace("say agent=1", "say agent=0"), mode=0o755
        )
        with (
            connect(lab, server, "certpilot") as connection,
            pytest.raises(EdgeError, match=r"too old.*install\.sh") as caught,
        ):
            agent(connection).look(JobId("j"), 0)
        assert caught.value.code is Code.PERMISSION_DENIED
    finally:
        server.write("/usr/local/sbin/certpilot-agent", text, mode=0o755)


def test_full_disk_is_named(lab: Lab) -> None:
    server = lab.servers[0]
    with connect(lab, server, "root") as connection:
        agent(connection, 98).look(JobId("full"), 0)
    server.run(["sh", "-c", "cat /dev/zero >/var/lib/filler"], check=False)
    try:
        with connect(lab, server, "root") as connection, pytest.raises(EdgeError) as caught:
            agent(connection, 99).look(JobId("full"), 0)
        assert caught.value.code is Code.DISK_FULL
        assert server.read("/var/lib/certpilot/fence") == "98\n"
    finally:
        server.run(["rm", "/var/lib/filler", "/var/lib/certpilot/fence"])


def test_two_workers_may_start_many_commands_at_once(lab: Lab, connection: SshConnection, user: str) -> None:
    answers: list[RunState] = []
    host = agent(connection, 50)
    threads = [
        threading.Thread(target=lambda: answers.append(host.look(JobId("many"), 0).run)) for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [RunState.ABSENT] * 20


def test_quoting_survives_the_forced_command(
    lab: Lab, connection: SshConnection, server: CustomerServer
) -> None:
    root = '/srv/it\'s a $(root) "of" *'
    server.run(["sh", "-c", f"mkdir -p {shlex.quote(root)}"])
    host = agent(connection, 60)
    (probe,) = host.probe(JobId("quoting"), TOKEN, [root])
    assert (probe.placed, server.exists(f"{root}/.well-known/acme-challenge/{TOKEN}")) == (True, True)
    host.unprobe(JobId("quoting"), TOKEN)
    assert not server.exists(f"{root}/.well-known")
