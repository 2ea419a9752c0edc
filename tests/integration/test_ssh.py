"""The SSH edge against a real sshd: whose key is believed, what is refused, and that nothing waits for ever."""

import logging
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import paramiko
import pytest

from contracts.codes import Code
from tests.support.agent import wait_for
from tests.support.loopback import LoopbackSshd, black_hole, make_key, proxy_to
from workers.core.model import Server
from workers.edges.errors import EdgeError
from workers.edges.server.ssh import SshConnection, _Exchange


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackSshd]:
    with LoopbackSshd(tmp_path_factory.mktemp("sshd"), environment={"GREETING": "hello"}) as running:
        yield running


def connect(
    sshd: LoopbackSshd, server: Server | None = None, *, known: Path | None = None, seconds: float = 5
) -> SshConnection:
    return SshConnection.connect(
        server or sshd.server(),
        key_files=[sshd.user_key],
        known_hosts_file=known,
        connect_timeout_seconds=seconds,
        login_timeout_seconds=seconds,
    )


@pytest.fixture
def connection(sshd: LoopbackSshd) -> Iterator[SshConnection]:
    with connect(sshd) as opened:
        yield opened


def failure(
    sshd: LoopbackSshd, server: Server | None = None, *, known: Path | None = None, seconds: float = 5
) -> EdgeError:
    with pytest.raises(EdgeError) as caught:
        connect(sshd, server, known=known, seconds=seconds).close()
    assert not caught.value.sent
    return caught.value


def fingerprint(public: str, folder: Path) -> str:
    """What ssh-keygen calls it."""
    (folder / "shown.pub").write_text(public + "\n")
    shown = subprocess.run(
        ["ssh-keygen", "-l", "-f", folder / "shown.pub"], capture_output=True, text=True, check=True
    ).stdout
    return f"{public.split(maxsplit=1)[0]} {shown.split()[1]}"


# --- host keys ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_server_shows_the_pinned_key_whatever_its_type(sshd: LoopbackSshd, kind: str) -> None:
    with connect(sshd, sshd.server(host_key=sshd.host_keys[kind])) as connection:
        assert connection.run("echo $GREETING", timeout_seconds=10).stdout == b"hello\n"


def test_other_host_key_is_refused_and_both_fingerprints_shown(sshd: LoopbackSshd, tmp_path: Path) -> None:
    other = make_key(tmp_path / "other")
    error = failure(sshd, sshd.server(host_key=other))
    assert error.code is Code.HOST_KEY_MISMATCH
    assert fingerprint(other, tmp_path) in error.message
    assert fingerprint(sshd.host_keys["ed25519"], tmp_path) in error.message


def test_host_key_of_the_command_beats_the_known_hosts_file(sshd: LoopbackSshd, tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    known.write_text(f"[127.0.0.1]:{sshd.port} {sshd.host_keys['ed25519']}\n")
    assert (
        failure(sshd, sshd.server(host_key=make_key(tmp_path / "other")), known=known).code
        is Code.HOST_KEY_MISMATCH
    )


def test_unknown_host_is_refused_and_the_key_it_showed_is_named(sshd: LoopbackSshd, tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    known.write_text(f"127.0.0.1 {sshd.host_keys['ed25519']}\n[127.0.0.1]:1 {sshd.host_keys['ed25519']}\n")
    for file in (known, tmp_path / "missing", None):
        error = failure(sshd, sshd.server(host_key=None), known=file)
        assert error.code is Code.HOST_KEY_MISMATCH
        assert f"[127.0.0.1]:{sshd.port}" in error.message
        assert fingerprint(sshd.host_keys["ed25519"], tmp_path) in error.message


def test_server_without_a_key_of_the_known_type_is_refused(sshd: LoopbackSshd, tmp_path: Path) -> None:
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ecdsa", "-b", "521", "-N", "", "-f", tmp_path / "k"], check=True
    )
    key = " ".join((tmp_path / "k.pub").read_text().split()[:2])
    error = failure(sshd, sshd.server(host_key=key))
    assert error.code is Code.HOST_KEY_MISMATCH
    assert "none of that type" in error.message


def known_line(sshd: LoopbackSshd, form: str, folder: Path) -> str:
    name, key = f"[127.0.0.1]:{sshd.port}", sshd.host_keys["rsa"]
    return {
        "plain": f"{name} {key} comment",
        "list": f"elsewhere,{name},other {key}",
        "pattern": f"[127.0.0.?]:* {key}",
        "tabs": f"{name}\t{key}",
        "second": f"{name} {make_key(folder / 'retired', 'rsa')}\n{name} {key}",
    }[form]


@pytest.mark.parametrize("form", ["plain", "list", "pattern", "tabs", "second", "hashed"])
def test_known_hosts_file_in_every_form(sshd: LoopbackSshd, tmp_path: Path, form: str) -> None:
    known = tmp_path / "known_hosts"
    known.write_text(known_line(sshd, "plain" if form == "hashed" else form, tmp_path) + "\n")
    if form == "hashed":
        subprocess.run(["ssh-keygen", "-q", "-H", "-f", known], check=True, capture_output=True)
        assert known.read_text().startswith("|1|")
    with connect(sshd, sshd.server(host_key=None), known=known) as connection:
        assert connection.alive


@pytest.mark.parametrize("line", ["@revoked {name} {key}\n{name} {key}", "{name} {key}\n@revoked * {key}", "*,!{name} {key}",
                                  "# {name} {key}", "@cert-authority {name} {key}", "{name} ssh-ed25519", "{name} ssh-ed25519 %%%"])  # fmt: skip
def test_line_that_does_not_vouch_for_the_key(sshd: LoopbackSshd, tmp_path: Path, line: str) -> None:
    known = tmp_path / "known_hosts"
    known.write_text(line.format(name=f"[127.0.0.1]:{sshd.port}", key=sshd.host_keys["ed25519"]) + "\n")
    assert failure(sshd, sshd.server(host_key=None), known=known).code is Code.HOST_KEY_MISMATCH


# --- logging in -----------------------------------------------------------------------------------------------------


def test_wrong_key_is_refused_at_once_and_named_by_its_fingerprint(
    sshd: LoopbackSshd, tmp_path: Path
) -> None:
    public = make_key(tmp_path / "wrong")
    with proxy_to(sshd.port) as proxy, pytest.raises(EdgeError) as caught:
        SshConnection.connect(
            sshd.server(port=proxy.port), key_files=[tmp_path / "wrong"], known_hosts_file=None
        )
    assert caught.value.code is Code.SSH_AUTH_FAILED
    assert fingerprint(public, tmp_path) in caught.value.message
    assert proxy.connections == 1


def test_keys_are_tried_in_turn(sshd: LoopbackSshd, tmp_path: Path) -> None:
    make_key(tmp_path / "first", "rsa")
    files = [tmp_path / "first", sshd.user_key]
    with SshConnection.connect(sshd.server(), key_files=files, known_hosts_file=None) as connection:
        assert connection.alive


def test_too_many_keys_are_an_authentication_failure(sshd: LoopbackSshd, tmp_path: Path) -> None:
    files = [tmp_path / f"key{number}" for number in range(8)]  # sshd's MaxAuthTries is 6
    for file in files:
        make_key(file)
    with pytest.raises(EdgeError) as caught:
        SshConnection.connect(sshd.server(), key_files=files, known_hosts_file=None)
    assert caught.value.code is Code.SSH_AUTH_FAILED


def test_unknown_user_is_refused(sshd: LoopbackSshd) -> None:
    assert failure(sshd, sshd.server(username="nobody-here")).code is Code.SSH_AUTH_FAILED


@pytest.mark.parametrize(
    "content",
    [
        None,
        "",
        "rubbish",
        "-----BEGIN OPENSSH PRIVATE KEY-----\nU0VDUkVU\n-----END OPENSSH PRIVATE KEY-----\n",
    ],
)
def test_unusable_key_file_is_named_without_its_content(
    sshd: LoopbackSshd, tmp_path: Path, content: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "key"
    if content is not None:
        file.write_text(content)
    with caplog.at_level(logging.DEBUG), pytest.raises(EdgeError) as caught:
        SshConnection.connect(sshd.server(), key_files=[file], known_hosts_file=None)
    assert caught.value.code is Code.SSH_AUTH_FAILED
    assert str(file) in caught.value.message
    assert "U0VDUkVU" not in caught.value.message + caplog.text
    assert caught.value.__cause__ is None


def test_key_with_a_passphrase_says_so(sshd: LoopbackSshd, tmp_path: Path) -> None:
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "sesame", "-f", tmp_path / "locked"], check=True
    )
    with pytest.raises(EdgeError, match="passphrase") as caught:
        SshConnection.connect(sshd.server(), key_files=[tmp_path / "locked"], known_hosts_file=None)
    assert caught.value.code is Code.SSH_AUTH_FAILED


def test_neither_agent_nor_home_directory_nor_password_is_asked(
    sshd: LoopbackSshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that the worker's operator never named must open nothing."""
    home = tmp_path / "home/.ssh"
    home.mkdir(parents=True)
    (home / "id_ed25519").write_bytes(sshd.user_key.read_bytes())
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    make_key(tmp_path / "wrong")
    with pytest.raises(EdgeError) as caught:
        SshConnection.connect(sshd.server(), key_files=[tmp_path / "wrong"], known_hosts_file=None)
    assert caught.value.code is Code.SSH_AUTH_FAILED
    with pytest.raises(EdgeError, match="CERTPILOT_SSH_PRIVATE_KEY_FILE"):
        SshConnection.connect(sshd.server(), key_files=[], known_hosts_file=None)


def test_private_key_appears_in_no_log(sshd: LoopbackSshd, caplog: pytest.LogCaptureFixture) -> None:
    secrets = [line for line in sshd.user_key.read_text().splitlines() if not line.startswith("-----")]
    with caplog.at_level(logging.DEBUG), connect(sshd) as connection:
        connection.run("true", timeout_seconds=10)
    assert not any(secret in caplog.text for secret in secrets)


# --- what cannot be reached -----------------------------------------------------------------------------------------


def test_closed_port_is_unreachable(sshd: LoopbackSshd) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        error = failure(sshd, sshd.server(port=holder.getsockname()[1]))
    assert error.code is Code.SERVER_UNREACHABLE
    assert "refused" in error.message


def test_black_holed_port_is_given_up_after_two_timeouts(sshd: LoopbackSshd) -> None:
    with black_hole() as port:
        before = time.monotonic()
        error = failure(sshd, sshd.server(port=port), seconds=0.5)
    assert error.code is Code.SERVER_UNREACHABLE
    assert "0.5 s" in error.message
    assert time.monotonic() - before < 5


def test_name_that_does_not_resolve_is_unreachable(sshd: LoopbackSshd) -> None:
    for host in ("no-such-host.invalid", "a" * 70 + ".invalid", "bad..name"):
        assert failure(sshd, sshd.server(host=host)).code is Code.SERVER_UNREACHABLE


@pytest.mark.parametrize(
    ("greeting", "tries"),
    [
        (b"", 3),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", 3),
        (b"SSH-1.5-old\r\n", 1),
        (b"SSH-2.0-x\r\n\xff\xff\xff\xff", 3),
    ],
)
def test_what_is_no_ssh_server_is_unreachable(sshd: LoopbackSshd, greeting: bytes, tries: int) -> None:
    """As sshd itself looks while it penalises an address: it accepts, and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for _ in range(tries):
                with listener.accept()[0] as accepted:
                    accepted.sendall(greeting)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        assert failure(sshd, sshd.server(port=listener.getsockname()[1])).code is Code.SERVER_UNREACHABLE
        thread.join(10)
        assert not thread.is_alive(), "fewer tries were made"


def test_server_that_accepts_and_says_nothing_is_given_up(sshd: LoopbackSshd) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        before = time.monotonic()
        error = failure(sshd, sshd.server(port=listener.getsockname()[1]), seconds=0.5)
    assert error.code is Code.SERVER_UNREACHABLE
    assert time.monotonic() - before < 10


def test_hang_up_while_connecting_is_tried_again(sshd: LoopbackSshd) -> None:
    with proxy_to(sshd.port) as proxy:
        proxy.hang_up_on = 2
        with connect(sshd, sshd.server(port=proxy.port)) as connection:
            assert connection.run("echo again", timeout_seconds=10).stdout == b"again\n"
        assert proxy.connections == 3


# --- commands -------------------------------------------------------------------------------------------------------


def test_result_has_both_streams_and_the_status(connection: SshConnection) -> None:
    result = connection.run("echo out; echo err >&2; exit 7", timeout_seconds=10)
    assert (result.exit_status, result.stdout, result.stderr, result.truncated) == (
        7,
        b"out\n",
        b"err\n",
        False,
    )


def test_large_output_of_both_streams_comes_whole(connection: SshConnection) -> None:
    """More than the window of either stream: whoever waits for the status before reading hangs here."""
    size = 6_000_000
    result = connection.run(
        f"head -c {size} /dev/zero >&2 & head -c {size} /dev/zero; wait", timeout_seconds=60
    )
    assert (len(result.stdout), len(result.stderr), result.exit_status) == (size, size, 0)


def test_output_beyond_the_limit_is_dropped_without_holding_up_the_command(connection: SshConnection) -> None:
    result = connection.run(
        "head -c 5000000 /dev/zero; echo done >&2", timeout_seconds=30, max_output_bytes=1000
    )
    assert (len(result.stdout), result.stderr, result.truncated, result.exit_status) == (
        1000,
        b"done\n",
        True,
        0,
    )


def test_input_arrives_whole_and_closed(connection: SshConnection) -> None:
    data = bytes(range(256)) * 20_000
    result = connection.run("cat", stdin=data, timeout_seconds=60)
    assert result.stdout == data


def test_command_that_reads_no_input_ends(connection: SshConnection) -> None:
    result = connection.run("echo early; exit 3", stdin=b"x" * 5_000_000, timeout_seconds=30)
    assert (result.stdout, result.exit_status) == (b"early\n", 3)


def test_empty_input_is_an_end_and_no_input_is_silence(connection: SshConnection) -> None:
    assert connection.run("wc -c", stdin=b"", timeout_seconds=10).stdout.strip() == b"0"
    waiting = connection.run("timeout 0.5 cat; echo $?", timeout_seconds=10)
    assert waiting.stdout == b"124\n"


def test_daemon_that_keeps_the_streams_does_not_hold_us(connection: SshConnection) -> None:
    before = time.monotonic()
    result = connection.run("sleep 20 & echo $!", timeout_seconds=15)
    assert time.monotonic() - before < 5
    assert result.exit_status == 0
    os.kill(int(result.stdout), signal.SIGTERM)


def test_command_past_its_deadline_is_left_and_may_have_run(connection: SshConnection) -> None:
    before = time.monotonic()
    with pytest.raises(EdgeError) as caught:
        connection.run("sleep 30", timeout_seconds=0.5)
    assert (caught.value.code, caught.value.sent) == (Code.SERVER_UNREACHABLE, True)
    assert time.monotonic() - before < 3
    assert connection.run("echo still", timeout_seconds=10).stdout == b"still\n"


def test_command_killed_by_a_signal_has_no_status(connection: SshConnection) -> None:
    with pytest.raises(EdgeError, match="killed") as caught:
        connection.run("kill -9 $$", timeout_seconds=10)
    assert caught.value.sent


def test_more_commands_at_once_than_sshd_has_sessions(connection: SshConnection) -> None:
    """Quick ones, so that each channel's close meets what we still have to say of it."""
    with ThreadPoolExecutor(40) as pool:
        results = list(pool.map(lambda n: connection.run(f"echo {n}", timeout_seconds=60), range(100)))
    assert [int(result.stdout) for result in results] == list(range(100))


def test_server_that_allows_no_session_says_so(tmp_path: Path) -> None:
    with (
        LoopbackSshd(tmp_path / "sshd", environment={}, extra="MaxSessions 0") as own,
        connect(own) as connection,
    ):
        with pytest.raises(EdgeError, match="no further command") as caught:
            connection.run("true", timeout_seconds=1)
        assert not caught.value.sent


def test_connection_cut_while_a_command_runs(sshd: LoopbackSshd, tmp_path: Path) -> None:
    """What was sent may have run: the marker shows that it did."""
    marker = tmp_path / "ran"
    with proxy_to(sshd.port) as proxy, connect(sshd, sshd.server(port=proxy.port)) as connection:
        killer = threading.Thread(target=lambda: (wait_for(marker.exists, "the command runs"), proxy.cut()))
        killer.start()
        with pytest.raises(EdgeError) as caught:
            connection.run(f"touch {marker}; sleep 20", timeout_seconds=15)
        killer.join()
        assert (caught.value.code, caught.value.sent, connection.alive) == (
            Code.SERVER_UNREACHABLE,
            True,
            False,
        )
        with pytest.raises(EdgeError) as later:
            connection.run("true", timeout_seconds=5)
        assert not later.value.sent


@pytest.mark.parametrize("stdin", [None, b"x" * 8_000_000], ids=["quiet", "writing"])
def test_connection_that_freezes_ends_at_the_deadline(sshd: LoopbackSshd, stdin: bytes | None) -> None:
    with proxy_to(sshd.port) as proxy, connect(sshd, sshd.server(port=proxy.port)) as connection:
        connection.run("true", timeout_seconds=10)
        proxy.freeze()
        before = time.monotonic()
        with pytest.raises(EdgeError) as caught:
            connection.run("cat >/dev/null", stdin=stdin, timeout_seconds=1)
        assert caught.value.code is Code.SERVER_UNREACHABLE
        assert time.monotonic() - before < 6


@pytest.mark.timeout(60)
def test_request_that_is_never_answered_ends_at_the_deadline_and_may_have_run(
    sshd: LoopbackSshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """paramiko waits without end for the answer to `exec`; the fault is put in right before it is asked."""
    real = paramiko.Channel.exec_command
    with proxy_to(sshd.port) as proxy, connect(sshd, sshd.server(port=proxy.port)) as connection:

        def frozen(channel: paramiko.Channel, command: bytes) -> None:
            proxy.freeze()
            real(channel, command)

        monkeypatch.setattr(paramiko.Channel, "exec_command", frozen)
        before = time.monotonic()
        with pytest.raises(EdgeError) as caught:
            connection.run("true", timeout_seconds=0.5)
        assert caught.value.sent
        assert time.monotonic() - before < 10


def test_input_for_a_command_that_has_ended_is_dropped(connection: SshConnection) -> None:
    channel = connection._transport.open_session()
    channel.exec_command("echo done; exit 3")
    wait_for(lambda: channel.closed, "the command has ended")
    exchange = _Exchange(channel, b"too late", 100)
    exchange.run_until(time.monotonic() + 10)
    assert exchange.exit_status == 3
    assert exchange.result(3).stdout == b"done\n"


def test_connection_that_freezes_under_a_command_ends_at_the_deadline(sshd: LoopbackSshd) -> None:
    with proxy_to(sshd.port) as proxy, connect(sshd, sshd.server(port=proxy.port)) as connection:
        freezer = threading.Timer(0.5, proxy.freeze)
        freezer.start()
        before = time.monotonic()
        with pytest.raises(EdgeError) as caught:
            connection.run("cat >/dev/null; sleep 20", stdin=b"x" * 3_000_000, timeout_seconds=2)
        freezer.join()
        assert caught.value.sent
        assert time.monotonic() - before < 8


def test_sshd_killed_under_a_command(tmp_path: Path) -> None:
    with LoopbackSshd(tmp_path / "sshd", environment={}) as own, connect(own) as connection:
        killer = threading.Timer(
            0.5, lambda: [subprocess.run(["kill", "-9", str(pid)], check=False) for pid in own.sessions()]
        )
        killer.start()
        with pytest.raises(EdgeError) as caught:
            connection.run("sleep 20", timeout_seconds=15)
        killer.join()
        assert caught.value.sent


def test_closing_wakes_a_waiting_command(connection: SshConnection) -> None:
    closer = threading.Timer(0.5, connection.close)
    closer.start()
    with pytest.raises(EdgeError) as caught:
        connection.run("sleep 20", timeout_seconds=15)
    closer.join()
    assert caught.value.sent


def test_silent_peer_is_dropped_by_the_kernel(connection: SshConnection) -> None:
    """The two together end a half-open connection within a minute; without them it lives for a quarter of an hour."""
    transport = connection._transport
    assert transport.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 45_000
    assert transport.packetizer._Packetizer__keepalive_interval == 15
