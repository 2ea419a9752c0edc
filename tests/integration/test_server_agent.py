"""The agent's verbs over a real sshd as root, with a stand-in for certbot and homes of the tests' own."""

import hashlib
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from contracts.codes import Code
from tests.support.agent import SCRIPT, Agent, wait_for
from tests.support.loopback import LoopbackSshd, proxy_to
from workers.core.model import Authenticator, Fence, JobId, Look, RunSpec, RunState, Step
from workers.edges.errors import AgentBusyError, AgentFailedError, EdgeError, RunBusyError, StaleFenceError
from workers.edges.server.agent import ServerAgent
from workers.edges.server.ssh import CommandResult, SshConnection

JOB, OTHER = JobId("0b9c6a52-0000-4000-8000-000000000001"), JobId("0b9c6a52-0000-4000-8000-000000000002")
SPEC = RunSpec("https://ca.test/dir", "ops@ca.test", "a.test", ("a.test", "www.a.test"))
TOKEN = "probe-token-0123456789"


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackSshd]:
    """One sshd for the module; each test's home is a link to a folder of its own."""
    folder = tmp_path_factory.mktemp("server")
    home = Agent(folder / "current")
    with LoopbackSshd(folder / "sshd", environment=home.env) as running:
        yield running


@pytest.fixture
def home(sshd: LoopbackSshd) -> Iterator[Agent]:
    folder = sshd.folder.parent / "current"
    for number in range(1000):
        if not (past := folder.with_name(f"past{number}")).exists():
            folder.rename(past)
            break
    made = Agent(folder)
    yield made
    for pid_file in made.jobs.glob("*/pid"):
        pid = int(pid_file.read_text())
        if (
            f"{made.bin}/certbot".encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
            if Path(f"/proc/{pid}").exists()
            else False
        ):
            os.kill(pid, 9)


@pytest.fixture
def connection(sshd: LoopbackSshd, home: Agent) -> Iterator[SshConnection]:
    with SshConnection.connect(sshd.server(), key_files=[sshd.user_key], known_hosts_file=None) as opened:
        yield opened


def agent(connection: SshConnection, fence: int = 5) -> ServerAgent:
    return ServerAgent(connection, connection.server, Fence(fence))


def certbot(home: Agent, body: str) -> None:
    (home.bin / "certbot").unlink()
    home.stub("certbot", f'echo "start $*" >>{home.log}\n{body}\n')


def over(server: ServerAgent, attempt: int = 1) -> Look:
    def look() -> Look | None:
        seen = server.look(JOB, attempt, "a.test")
        return None if seen.run is RunState.ALIVE else seen

    found = wait_for(look, "the run is over")
    assert isinstance(found, Look)
    return found


# --- the path of one attempt ----------------------------------------------------------------------------------------


def test_an_attempt_from_absent_to_its_output(connection: SshConnection, home: Agent) -> None:
    live = home.letsencrypt / "live/a.test"
    certbot(
        home,
        f"echo 'Requesting a certificate'; echo woe >&2; mkdir -p {live}; echo PEM >{live}/cert.pem; exit 1",
    )
    server = agent(connection)
    assert server.look(JOB, 0, "a.test") == Look(RunState.ABSENT)
    assert server.start(JOB, 1, SPEC) == Look(RunState.ALIVE, stage=Step.REQUESTING)
    assert over(server) == Look(RunState.ENDED, exit_code=1, certificate_pem=b"PEM\n")
    output = server.collect(JOB, 1)
    assert (output.exit_code, output.stdout, output.stderr, output.debug_log) == (
        1,
        "Requesting a certificate\n",
        "woe\n",
        "",
    )
    assert server.start(JOB, 1, SPEC).run is RunState.ENDED
    assert len(home.log_lines()) == 1
    server.clean(JOB, 1)
    assert server.look(JOB, 1).run is RunState.ABSENT


def test_spec_becomes_certbots_command_line(connection: SshConnection, home: Agent, tmp_path: Path) -> None:
    roots = (tmp_path / "it's a $(root)", tmp_path / "b")
    for root in roots:
        root.mkdir()
    certbot(home, 'printf "%s\\n" "$@" | tail -n +1')
    server = agent(connection)
    webroot = replace(
        SPEC, authenticator=Authenticator.WEBROOT, webroots=tuple(map(str, roots)), force=True, account="0af"
    )
    wanted = {
        webroot: [
            "run",
            "-a",
            "webroot",
            "-w",
            str(roots[0]),
            "--redirect",
            "--force-renewal",
            "--account",
            "0af",
            "ops@ca.test",
        ],
        replace(webroot, install=False): ["certonly", "webroot", "--force-renewal"],
        replace(webroot, dry_run=True): ["certonly", "--dry-run", "--keep-until-expiring"],
        replace(SPEC, redirect=False, email=None): [
            "run",
            "nginx",
            "--no-redirect",
            "--register-unsafely-without-email",
        ],
        replace(webroot, only_install=True): ["install", "--redirect", "www.a.test"],
    }
    for attempt, (spec, words) in enumerate(wanted.items(), 1):
        server.start(JOB, attempt, spec)
        over(server, attempt)
        shown = server.collect(JOB, attempt).stdout.splitlines()
        assert set(words) <= set(shown), (words, shown)
    assert "-w" not in shown


def test_stage_is_installing_once_the_certificate_is_there(connection: SshConnection, home: Agent) -> None:
    certbot(home, "echo 'Successfully received certificate.'; exec sleep 30")
    server = agent(connection)
    server.start(JOB, 1, SPEC)
    wait_for(lambda: server.look(JOB, 1).stage is Step.INSTALLING, "installing is seen")
    assert server.stop(JOB, 1) is True
    assert over(server).exit_code == 143
    assert server.stop(JOB, 1) is False


def test_void_attempt_never_starts(connection: SshConnection, home: Agent) -> None:
    server = agent(connection)
    assert server.void(JOB, 1).run is RunState.VOID
    assert server.start(JOB, 1, SPEC).run is RunState.VOID
    assert home.starts() == 0


def test_begun_and_rebooted_are_told(connection: SshConnection, home: Agent) -> None:
    server = agent(connection)
    server.look(JOB, 0)
    (home.jobs / f"{JOB}.1").mkdir()
    assert server.look(JOB, 1) == Look(RunState.DEAD, begun=False, rebooted=True)


# --- refusals -------------------------------------------------------------------------------------------------------


def test_older_claim_is_stale_whatever_it_sends(connection: SshConnection, home: Agent) -> None:
    agent(connection, 9).look(JOB, 0)
    old = agent(connection, 8)
    commands = [
        lambda: old.look(JOB, 0),
        lambda: old.start(JOB, 1, SPEC),
        lambda: old.void(JOB, 1),
        lambda: old.stop(JOB, 1),
        lambda: old.clean(JOB, 1),
        lambda: old.collect(JOB, 1),
        lambda: old.probe(JOB, TOKEN, ["/tmp"]),
        lambda: old.unprobe(JOB, TOKEN),
    ]
    for command in commands:
        with pytest.raises(StaleFenceError) as caught:
            command()
        assert (caught.value.fence, caught.value.newest) == (8, 9)
    assert list(home.jobs.iterdir()) == []


@pytest.mark.usefixtures("home")
def test_script_that_was_installed_before_a_verb_was_added_is_too_old(connection: SshConnection) -> None:
    with pytest.raises(EdgeError) as caught:
        agent(connection).ask("conquer", JOB, 0)
    assert caught.value.code is Code.PERMISSION_DENIED
    assert "too old" in caught.value.message


def test_other_run_is_busy_and_seen(connection: SshConnection, home: Agent) -> None:
    certbot(home, "exec sleep 30")
    server = agent(connection)
    server.start(JOB, 1, SPEC)
    with pytest.raises(RunBusyError) as caught:
        server.start(OTHER, 1, SPEC)
    assert (caught.value.code, caught.value.sent) == (Code.SERVER_BUSY, False)
    assert server.look(OTHER, 0).other_run
    server.stop(JOB, 1)


def test_held_script_is_agent_busy(connection: SshConnection, home: Agent) -> None:
    home.stub("flock", '[ "$1" = -w ] && exit 1; exec /usr/bin/flock "$@"\n')
    with pytest.raises(AgentBusyError) as caught:
        agent(connection).look(JOB, 0)
    assert (caught.value.code, caught.value.sent) == (Code.SERVER_BUSY, False)


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("No space left on device", Code.DISK_FULL),
        ("Read-only file system", Code.FILESYSTEM_UNUSABLE),
        ("Odd", Code.FILESYSTEM_UNUSABLE),
    ],
)
def test_failure_on_the_server_names_its_cause(
    connection: SshConnection, home: Agent, said: str, code: Code
) -> None:
    agent(connection, 5).inspect()  # stores the script
    home.stub("sync", f"echo 'sync: error: {said}' >&2; exit 1\n")
    with pytest.raises(AgentFailedError) as caught:
        agent(connection, 6).look(JOB, 0)
    assert (caught.value.code, caught.value.sent) == (code, True)
    assert said in caught.value.message


@pytest.mark.parametrize("full", ["-Pk", "-Pi"])
def test_full_disk_is_found_where_the_shell_only_says_io_error(
    connection: SshConnection, home: Agent, full: str
) -> None:
    agent(connection, 5).inspect()
    home.stub("sync", "echo 'sh: printf: I/O error' >&2; exit 1\n")
    table = "echo Filesystem 1024-blocks Used Available Capacity Mounted"
    home.stub("df", f"{table}; [ $1 = {full} ] && echo disk 900 900 0 100% / || echo disk 900 1 899 1% /\n")
    with pytest.raises(AgentFailedError) as caught:
        agent(connection, 6).look(JOB, 0)
    assert caught.value.code is Code.DISK_FULL


def test_full_disk_while_the_script_is_stored(connection: SshConnection, home: Agent) -> None:
    home.stub("mktemp", "echo 'mktemp: failed: No space left on device' >&2; exit 1\n")
    with pytest.raises(AgentFailedError) as caught:
        agent(connection).look(JOB, 0)
    assert (caught.value.code, caught.value.sent) == (Code.DISK_FULL, False)


def test_cut_answer_may_have_run(connection: SshConnection, home: Agent) -> None:
    """The script is killed while it answers: the START may well have happened."""
    server = agent(connection)
    server.look(JOB, 0)
    home.stub("grep", "kill -9 $PPID\n")
    certbot(home, "exec sleep 30")
    server.start(JOB, 1, SPEC)
    with pytest.raises(EdgeError) as caught:
        server.look(JOB, 1)
    (home.bin / "grep").unlink()
    assert caught.value.sent
    server.stop(JOB, 1)


def test_answer_without_its_last_line_may_have_run(connection: SshConnection, home: Agent) -> None:
    real = connection.run

    def cutting(
        command: str, *, stdin: bytes | None = None, timeout_seconds: float, max_output_bytes: int = 1 << 24
    ) -> CommandResult:
        result = real(
            command, stdin=stdin, timeout_seconds=timeout_seconds, max_output_bytes=max_output_bytes
        )
        return replace(result, stdout=result.stdout[:-3])

    server = agent(connection)
    server.look(JOB, 0)
    connection.run = cutting  # type: ignore[method-assign]
    with pytest.raises(EdgeError, match="cut") as caught:
        server.void(JOB, 1)
    assert (caught.value.code, caught.value.sent) == (Code.SERVER_UNREACHABLE, True)
    assert (home.jobs / f"{JOB}.1/void").exists()


def test_usage_is_a_bug_of_ours(connection: SshConnection, home: Agent) -> None:
    with pytest.raises(EdgeError) as caught:
        agent(connection).look(JOB, 0, "../etc")
    assert (caught.value.code, caught.value.sent) == (Code.INTERNAL, False)


@pytest.mark.parametrize("name", ["a.test\x00b", "a.test\nb", "a.test\x1b"])
def test_control_characters_never_leave_us(connection: SshConnection, home: Agent, name: str) -> None:
    with pytest.raises(EdgeError) as caught:
        agent(connection).look(JOB, 0, name)
    assert (caught.value.code, caught.value.sent) == (Code.INTERNAL, False)
    assert not home.home.exists()


HOSTILE = ["'; touch pwned; '", "$(touch pwned) `touch pwned`", '* \\ " !! |touch pwned', "-x"]


@pytest.mark.parametrize("value", HOSTILE)
def test_nothing_hostile_reaches_a_shell(
    connection: SshConnection, home: Agent, value: str, tmp_path: Path
) -> None:
    server = agent(connection)
    spec = replace(SPEC, cert_name=value)
    for command in (
        lambda: server.look(JobId(value), 0),
        lambda: server.look(JOB, 0, value),
        lambda: server.start(JOB, 1, spec),
        lambda: server.start(JOB, 1, replace(SPEC, names=(value,))),
        lambda: server.start(JOB, 1, replace(SPEC, email=value)),
        lambda: server.start(JOB, 1, replace(SPEC, directory_url=value)),
        lambda: server.start(JOB, 1, replace(SPEC, account=value)),
        lambda: server.probe(JOB, value, ["/tmp"]),
        lambda: server.probe(JOB, TOKEN, [value]),
        lambda: server.inspect([value]),
        lambda: server.served(value),
    ):
        with pytest.raises(EdgeError) as caught:
            command()
        assert caught.value.code is Code.INTERNAL
    root = tmp_path / f"root {value.replace('/', '')}"
    root.mkdir()
    assert server.probe(JOB, TOKEN, [str(root)])[0].placed
    server.unprobe(JOB, TOKEN)
    assert list(root.iterdir()) == []
    assert not Path("/root/pwned").exists()
    assert list(home.jobs.iterdir()) == []


# --- how the script gets there --------------------------------------------------------------------------------------


def test_script_is_sent_once_and_again_when_it_is_missing_or_empty(
    connection: SshConnection, home: Agent
) -> None:
    sent: list[str] = []
    real = connection.run

    def counting(
        command: str, *, stdin: bytes | None = None, timeout_seconds: float, max_output_bytes: int = 1 << 24
    ) -> CommandResult:
        sent.append(command)
        return real(command, stdin=stdin, timeout_seconds=timeout_seconds, max_output_bytes=max_output_bytes)

    connection.run = counting  # type: ignore[method-assign]
    server = agent(connection)
    stored = home.home / "agent" / f"{hashlib.sha256(SCRIPT.read_bytes()).hexdigest()}.sh"
    server.look(JOB, 0)
    assert (len(sent), stored.read_bytes()) == (3, SCRIPT.read_bytes())
    server.look(JOB, 0)
    assert len(sent) == 4
    stored.write_text("")
    server.look(JOB, 0)
    assert (len(sent), stored.read_bytes()) == (7, SCRIPT.read_bytes())
    assert [path for path in (home.home, *home.home.rglob("*")) if path.stat().st_mode & 0o077] == []


def test_script_cut_on_its_way_is_not_stored(connection: SshConnection, home: Agent) -> None:
    server = agent(connection)
    real = connection.run

    def cutting(
        command: str, *, stdin: bytes | None = None, timeout_seconds: float, max_output_bytes: int = 1 << 24
    ) -> CommandResult:
        return real(
            command,
            stdin=stdin and stdin[:-100],
            timeout_seconds=timeout_seconds,
            max_output_bytes=max_output_bytes,
        )

    connection.run = cutting  # type: ignore[method-assign]
    with pytest.raises(AgentFailedError):
        server.look(JOB, 0)
    assert list((home.home / "agent").iterdir()) == []


def test_many_first_commands_at_once(connection: SshConnection, home: Agent) -> None:
    with ThreadPoolExecutor(12) as pool:
        looks = list(pool.map(lambda _: agent(connection).look(JOB, 0), range(12)))
    assert {look.run for look in looks} == {RunState.ABSENT}
    assert len(list((home.home / "agent").iterdir())) == 1


def test_words_of_a_login_shell_do_not_disturb(connection: SshConnection, home: Agent) -> None:
    real = connection.run

    def chatty(
        command: str, *, stdin: bytes | None = None, timeout_seconds: float, max_output_bytes: int = 1 << 24
    ) -> CommandResult:
        result = real(
            command, stdin=stdin, timeout_seconds=timeout_seconds, max_output_bytes=max_output_bytes
        )
        return replace(result, stdout=b"Welcome!\nresult=STALE\nbegin x\n" + result.stdout)

    connection.run = chatty  # type: ignore[method-assign]
    assert agent(connection).look(JOB, 0).run is RunState.ABSENT


# --- reading --------------------------------------------------------------------------------------------------------


def test_inspect_gives_the_whole_text(connection: SshConnection, home: Agent) -> None:
    text = agent(connection).inspect(["a.test"])
    assert text.startswith("agent=1\nos=")
    assert text.endswith("\nresult=OK\n")
    assert "\nuser_id=0\n" in text


def test_installed_script_that_is_older_than_a_question_is_asked_without_it(
    connection: SshConnection, home: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs = home.home.parent / "logs of certbot"
    logs.mkdir()
    (logs / "letsencrypt.log").write_text(
        "2026-11-25 10:02:47,992:ERROR:certbot._internal.renewal:Failed to renew certificate a.test with error: x\n"
    )
    home.letsencrypt.mkdir(exist_ok=True)
    (home.letsencrypt / "cli.ini").write_text(f"logs-dir = {logs}\n")
    server = agent(connection)
    assert "\nbegin failed_renewal\n|2026-" in server.inspect(["a.test"], failed_renewal_of="a.test")
    assert "failed_renewal" not in server.inspect(["a.test"])
    older = SCRIPT.read_bytes().replace(b"failure=*)", b"never)")
    assert older != SCRIPT.read_bytes()
    monkeypatch.setattr("workers.edges.server.agent.script", lambda: older)
    text = server.inspect(["a.test"], failed_renewal_of="a.test")
    assert ("failed_renewal" in text, text.endswith("\nresult=OK\n")) == (False, True)
    with pytest.raises(EdgeError) as caught:
        server.inspect(["../etc"], failed_renewal_of="a.test")
    assert caught.value.code is Code.INTERNAL


def test_served_gives_each_address(connection: SshConnection, home: Agent) -> None:
    pem = "-----BEGIN CERTIFICATE-----\\nAA\\n-----END CERTIFICATE-----"
    home.stub("openssl", f"case $* in *127.0.0.1:443*) printf 'junk\\n{pem}\\njunk\\n';; esac\n")
    home.stub("hostname", "echo 192.0.2.1\n")
    served = agent(connection).served("a.test")
    assert served == {"127.0.0.1": pem.replace("\\n", "\n").encode() + b"\n", "192.0.2.1": b""}


def test_probe_tells_of_each_root(connection: SshConnection, home: Agent, tmp_path: Path) -> None:
    probes = agent(connection).probe(JOB, TOKEN, [str(tmp_path), str(tmp_path / "missing")])
    assert [(probe.placed, probe.reason, probe.body) for probe in probes] == [
        (True, "placed", f"{TOKEN}.1"), (False, "missing", f"{TOKEN}.2"),
    ]  # fmt: skip
    assert (tmp_path / ".well-known/acme-challenge" / TOKEN).read_text() == probes[0].body
    agent(connection).unprobe(JOB, TOKEN)
    assert not (tmp_path / ".well-known").exists()


# --- the connection is lost -----------------------------------------------------------------------------------------


def test_start_whose_reply_was_lost_ran_once(sshd: LoopbackSshd, home: Agent) -> None:
    """The runner sends it again over a new connection and attaches."""
    certbot(home, "exec sleep 3")
    with proxy_to(sshd.port) as proxy:
        connect = {"key_files": [sshd.user_key], "known_hosts_file": None}
        with SshConnection.connect(sshd.server(port=proxy.port), **connect) as first:  # type: ignore[arg-type]
            agent(first).look(JOB, 0)
            home.stub(
                "stat",
                f'[ "$2" = "%i %s" ] && touch {home.home}/starting && sleep 1; exec /usr/bin/stat "$@"\n',
            )
            cutter = threading.Thread(
                target=lambda: (wait_for((home.home / "starting").exists, "START is at work"), proxy.cut())
            )
            cutter.start()
            with pytest.raises(EdgeError) as caught:
                agent(first).start(JOB, 1, SPEC)
            cutter.join()
            assert caught.value.sent
        with SshConnection.connect(sshd.server(port=proxy.port), **connect) as second:  # type: ignore[arg-type]
            server = agent(second)
            assert server.start(JOB, 1, SPEC).run is RunState.ALIVE
            wait_for(lambda: home.starts() == 1, "certbot runs")
            assert over(server).exit_code == 0
    assert home.starts() == 1
