"""The probe in folders that a site's users own, and what the script tells about a server."""

import os
import resource
import ssl
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.agent import SCRIPT, STANDIN, Agent, Answer, wait_for

TOKEN = "probe-token-0123456789"
INSIDE = Path(".well-known/acme-challenge")


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    return Agent(tmp_path / "server")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "web root"
    made.mkdir()
    return made


def place(agent: Agent, *roots: Path, fence: int = 5, token: str = TOKEN) -> list[str]:
    answer = agent.run("probe", fence, "j", token, *(f"webroot={root}" for root in roots))
    assert (answer.result, answer.stderr) == ("OK", "")
    return answer.values("webroot")


def take_away(agent: Agent, *, fence: int = 5, token: str = TOKEN) -> None:
    answer = agent.run("unprobe", fence, "j", token)
    assert (answer.result, answer.stderr) == ("OK", "")


# --- the probe ------------------------------------------------------------------------------------------------------


def test_probe_is_readable_by_everyone_and_leaves_nothing(agent: Agent, root: Path) -> None:
    assert place(agent, root) == ["placed"]
    file = root / INSIDE / TOKEN
    assert file.read_text() == f"{TOKEN}.1"
    assert [path.stat().st_mode & 0o777 for path in (root / ".well-known", root / INSIDE, file)] == [
        0o755,
        0o755,
        0o644,
    ]
    take_away(agent)
    assert list(root.iterdir()) == []
    assert list((agent.home / "probes").iterdir()) == []


def test_probe_says_which_root_was_served(agent: Agent, root: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    assert place(agent, root, tmp_path / "missing", other) == ["placed", "missing", "placed"]
    assert (other / INSIDE / TOKEN).read_text() == f"{TOKEN}.3"
    take_away(agent)
    assert [*root.iterdir(), *other.iterdir()] == []


def test_unprobe_keeps_folders_and_files_of_others(agent: Agent, root: Path) -> None:
    (root / INSIDE).mkdir(parents=True)
    (root / INSIDE / "other").write_text("theirs")
    assert place(agent, root) == ["placed"]
    take_away(agent)
    assert sorted(str(path.relative_to(root)) for path in root.rglob("*")) == [
        str(INSIDE.parent),
        str(INSIDE),
        str(INSIDE / "other"),
    ]


def test_unprobe_keeps_a_folder_that_came_to_hold_something(agent: Agent, root: Path) -> None:
    place(agent, root)
    (root / ".well-known/security.txt").write_text("theirs")
    take_away(agent)
    assert [path.name for path in (root / ".well-known").iterdir()] == ["security.txt"]


def test_empty_folder_of_the_owner_stays(agent: Agent, root: Path) -> None:
    (root / ".well-known").mkdir()
    place(agent, root)
    take_away(agent)
    assert [path.name for path in root.iterdir()] == [".well-known"]


def test_probe_of_a_root_behind_a_link_is_placed_in_the_real_one(
    agent: Agent, root: Path, tmp_path: Path
) -> None:
    """`current -> releases/42` is how many sites are deployed; the web server follows it too."""
    link = tmp_path / "current"
    link.symlink_to(root)
    assert place(agent, link) == ["placed"]
    assert (root / INSIDE / TOKEN).exists()
    link.unlink()  # the next release, before the probe is taken away
    take_away(agent)
    assert list(root.iterdir()) == []


@pytest.mark.parametrize("part", [".well-known", str(INSIDE)])
def test_link_below_the_root_is_refused(agent: Agent, root: Path, tmp_path: Path, part: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (root / part).parent.mkdir(exist_ok=True)
    (root / part).symlink_to(outside)
    assert place(agent, root) == ["symlink"]
    take_away(agent)
    assert list(outside.iterdir()) == []
    assert (root / part).is_symlink()


@pytest.mark.parametrize("kind", ["file", "link", "dangling", "directory", "fifo"])
def test_what_lies_at_the_probes_place_is_left_alone(
    agent: Agent, root: Path, tmp_path: Path, kind: str
) -> None:
    (root / INSIDE).mkdir(parents=True)
    target, outside = root / INSIDE / TOKEN, tmp_path / "outside"
    if kind == "file":
        target.write_text("theirs")
    elif kind == "directory":
        target.mkdir()
    elif kind == "fifo":
        os.mkfifo(target)
    else:
        target.symlink_to(outside)
        if kind == "link":
            outside.write_text("secret")
    before = target.lstat()
    assert place(agent, root) == ["exists"]
    take_away(agent)
    assert target.lstat().st_ino == before.st_ino
    assert not outside.exists() or outside.read_text() == "secret"


@pytest.mark.parametrize("name", [".well-known", str(INSIDE)])
def test_file_in_place_of_a_folder_is_refused(agent: Agent, root: Path, name: str) -> None:
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_text("theirs")
    assert place(agent, root) == ["unwritable"]
    take_away(agent)
    assert (root / name).read_text() == "theirs"


def test_folder_swapped_for_a_link_in_the_midst_is_noticed(agent: Agent, root: Path, tmp_path: Path) -> None:
    """The users of the site own the root: between our check and our step they may put a link there."""
    outside = tmp_path / "outside"
    outside.mkdir()
    swap = f'/bin/mkdir "$@" && case $1 in ./.well-known) mv "{root}/.well-known" "{root}/x"; ln -s "{outside}" "{root}/.well-known";; esac\n'
    agent.stub("mkdir", f'[ "$1" = -p ] && exec /bin/mkdir "$@"\n{swap}')
    assert place(agent, root) == ["symlink"]
    # Later still: after the check for a link, before the step into it. `cd` is the shell's own, so the test is too.
    (agent.bin / "mkdir").unlink()
    (root / ".well-known").unlink()
    text = SCRIPT.read_text()
    step = '    cd -P "./$part" 2>/dev/null'
    racing = text.replace(
        step,
        f'    [ $part = acme-challenge ] || {{ mv .well-known y; ln -s "{outside}" .well-known; }}\n{step}',
    )
    assert racing != text
    script = tmp_path / "racing.sh"
    script.write_text(racing)
    done = subprocess.run(
        ["sh", str(script), "probe", "6", "j", TOKEN, f"webroot={root}"],
        env=agent.env,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "webroot=symlink" in done.stdout
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("made", ["ln -s {outside}", "ln -s /dev/full", "ln {theirs}", "cp {theirs}"])
def test_what_appears_at_the_last_moment_is_not_written_to(
    agent: Agent, root: Path, tmp_path: Path, made: str
) -> None:
    """The token is in our argument list, for every user of the server to read while we are on our way."""
    outside, theirs = tmp_path / "outside", tmp_path / "theirs"
    theirs.write_text("theirs")
    command = made.format(outside=outside, theirs=theirs)
    agent.stub("dd", f'{command} "${{1#of=}}"; exec /bin/dd "$@"\n')
    assert place(agent, root) == ["unwritable"]
    take_away(agent)
    left = root / INSIDE / TOKEN
    assert left.is_symlink() or left.read_text() == "theirs"
    assert (outside.exists(), theirs.read_text()) == (False, "theirs")


def test_unprobe_follows_no_link_that_came_later(agent: Agent, root: Path, tmp_path: Path) -> None:
    place(agent, root)
    outside = tmp_path / "outside"
    (outside / "acme-challenge").mkdir(parents=True)
    (outside / "acme-challenge" / TOKEN).write_text("theirs")
    (root / ".well-known").rename(root / "moved")
    (root / ".well-known").symlink_to(outside)
    take_away(agent)
    assert (outside / "acme-challenge" / TOKEN).read_text() == "theirs"


def test_probe_of_a_dead_worker_goes_with_the_next_claim(agent: Agent, root: Path) -> None:
    place(agent, root)
    other = "another-token-0123456"
    place(agent, root, fence=5, token=other)
    # Beside each file lies its folder, whose redirect tells how a proxy speaks to the server.
    assert {path.name for path in (root / INSIDE).iterdir()} == {TOKEN, f"{TOKEN}.d", other, f"{other}.d"}
    following = "the-next-token-012345"
    assert place(agent, root, fence=6, token=following) == ["placed"]
    assert {path.name for path in (root / INSIDE).iterdir()} == {following, f"{following}.d"}
    take_away(agent, fence=7)
    assert list((agent.home / "probes").iterdir()) == []
    assert list(root.iterdir()) == []


def test_probe_into_what_cannot_be_written_says_so(agent: Agent) -> None:
    assert place(agent, Path("/proc/self")) == ["unwritable"]


# --- inspect --------------------------------------------------------------------------------------------------------


def test_inspect_tells_every_fact_in_half_a_second(agent: Agent) -> None:
    live = agent.letsencrypt / "live/a.test"
    live.mkdir(parents=True)
    (live / "cert.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----")
    account = agent.letsencrypt / "accounts/ca.test/directory/0123abcd"
    account.mkdir(parents=True)
    (account / "regr.json").write_text('{"body": {}, "uri": "https://ca.test/acct/1"}')
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    answer = agent.run("inspect", "a.test", "b.test")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert answer.result == "OK"
    # Processor time: how long it takes by the clock is the business of whoever else uses the machine.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5
    assert answer["os"]
    assert answer["user_id"] == "0"
    assert answer["boot_id"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert abs(int(answer["epoch_ms"] or 0) / 1000 - time.time()) < 60
    for key in (
        "disk_free_kb_etc",
        "disk_free_kb_var",
        "disk_free_kb_log",
        "inode_free_etc",
        "inode_free_var",
        "inode_free_log",
    ):
        assert int(answer[key] or -1) >= 0, key
    assert int(answer["memory_available_kb"] or 0) > 1000
    assert answer["certbot_path"] == str(agent.bin / "certbot")
    assert (answer["nginx_path"], answer["nginx_test_exit"], answer["systemd"]) == (
        "/usr/sbin/nginx",
        "0",
        answer["systemd"],
    )
    assert "user www-data;" in (answer.section("nginx_config") or "")
    assert answer.section("accounts") == "ca.test/directory/0123abcd https://ca.test/acct/1"
    assert (answer.section("certificates") or "").splitlines() == [
        "name=a.test", "-----BEGIN CERTIFICATE-----", "AAAA", "-----END CERTIFICATE-----",
    ]  # fmt: skip
    assert not (agent.home / "fence").exists()
    assert not list(agent.home.glob("inspect.*"))


def test_inspect_runs_beside_a_command_that_holds_the_lock(agent: Agent) -> None:
    agent.run("look", 1, "j", 0)
    with subprocess.Popen(["flock", str(agent.home / "agent.lock"), "sleep", "60"]) as holder:
        wait_for(lambda: agent.run("version").result == "OK", "the home is there")
        assert agent.run("inspect").result == "OK"
        holder.terminate()


def test_inspect_of_a_bare_server(agent: Agent, tmp_path: Path) -> None:
    """No certbot, no nginx, no ss: the facts say so, and nothing breaks."""
    tools = tmp_path / "tools"
    tools.mkdir()
    missing = {"certbot", "nginx", "ss", "hostname"}
    for folder in ("/usr/bin", "/bin", "/usr/sbin", "/sbin"):
        for program in Path(folder).iterdir():
            if program.name not in missing and not (tools / program.name).exists():
                (tools / program.name).symlink_to(program)
    agent.env["PATH"] = str(tools)
    answer = agent.run("inspect")
    assert answer.result == "OK"
    assert (
        answer["certbot_path"],
        answer["certbot_version"],
        answer["nginx_path"],
        answer["nginx_running"],
    ) == ("", "", "", "no")
    assert (answer["port80_listener"], answer.section("nginx_config")) == ("unknown", None)


def test_inspect_leaves_inodes_out_where_the_file_system_counts_none(agent: Agent) -> None:
    """btrfs reports none of none; that must not look like a full disk."""
    agent.stub(
        "df",
        'case $1 in -Pi) printf "Filesystem Inodes IUsed IFree\n/dev/x 0 0 0\n/dev/y 9 7 2\n/dev/x 0 0 0\n";; '
        '*) printf "Filesystem 1024-blocks Used Available\n/dev/x 9 4 5\n/dev/y 9 3 6\n/dev/x 9 4 5\n";; esac\n',
    )
    answer = agent.run("inspect")
    assert [answer[f"inode_free_{place}"] for place in ("etc", "var", "log")] == [None, "2", None]
    assert [answer[f"disk_free_kb_{place}"] for place in ("etc", "var", "log")] == ["5", "6", "5"]


def test_inspect_of_a_broken_nginx_shows_its_words(agent: Agent) -> None:
    agent.stub(
        "nginx",
        'case $1 in -v) echo nginx version: nginx/9.9 >&2;; -T) echo "nginx: [emerg] \\"x\\" é" >&2; exit 1;; esac\n',
    )
    answer = agent.run("inspect")
    assert (answer["nginx_version"], answer["nginx_test_exit"]) == ("9.9", "1")
    assert (answer.section("nginx_test") or "").startswith('nginx: [emerg] "x"')


def test_inspect_cuts_a_huge_configuration(agent: Agent) -> None:
    agent.stub("nginx", "case $1 in -T) yes '# a line of a hosting panel' | head -c 6000000; exit 0;; esac\n")
    answer = agent.run("inspect")
    assert answer.result == "OK"
    assert 4190000 < len(answer.section("nginx_config") or "") <= 4194304


@pytest.mark.parametrize("words", [[], ["plain"], ["-----BEGIN", "result=STALE"]])
def test_configuration_cannot_forge_the_answer(agent: Agent, words: list[str]) -> None:
    text = "\\n".join(["end nginx_config", "result=STALE", *words])
    agent.stub("nginx", f"case $1 in -T) printf '{text}';; esac\n")
    answer = agent.run("inspect")
    assert answer.values("result") == ["OK"]
    assert (answer.section("nginx_config") or "").splitlines()[1] == "result=STALE"


def test_certbot_version_is_asked_where_no_package_tells_it(agent: Agent) -> None:
    (agent.bin / "certbot").unlink()
    agent.stub("certbot", "echo certbot 5.8.0\n")
    answer = agent.run("inspect")
    assert (answer["certbot_version"], answer.section("certbot_plugins")) == ("5.8.0", "unknown")


def test_certbot_in_an_environment_of_its_own_shows_its_plugins(agent: Agent, tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    (venv / "lib/python3.11/site-packages/certbot_nginx").mkdir(parents=True)
    (venv / "bin").mkdir()
    (venv / "bin/certbot").write_text(f"#!{venv}/bin/python3\n")
    (venv / "bin/certbot").chmod(0o755)
    (agent.bin / "certbot").unlink()
    (agent.bin / "certbot").symlink_to(venv / "bin/certbot")
    assert agent.run("inspect").section("certbot_plugins") == "nginx"


# --- served ---------------------------------------------------------------------------------------------------------


def test_served_shows_the_chain_of_each_address(agent: Agent, tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=a.test",
         "-days", "2", "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    # Port 443 is the machine's: a stand-in for s_client's address only, the handshake is openssl's own.
    with subprocess.Popen(
        ["openssl", "s_server", "-accept", "127.0.0.1:0", "-key", str(key), "-cert", str(certificate)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as server:  # fmt: skip
        assert server.stdout is not None
        port = next(line for line in server.stdout if line.startswith("ACCEPT")).rpartition(":")[2].strip()
        agent.stub(
            "openssl",
            f'a=$(printf "%s " "$@" | sed s/127.0.0.1:443/127.0.0.1:{port}/); exec /usr/bin/openssl $a\n',
        )
        agent.stub("hostname", "echo\n")
        answer = agent.run("served", "a.test")
        server.kill()
    assert answer.result == "OK"
    assert ssl.PEM_cert_to_DER_cert(answer.section("served 127.0.0.1") or "") == ssl.PEM_cert_to_DER_cert(
        certificate.read_text()
    )


def test_served_where_nobody_listens_is_empty(agent: Agent) -> None:
    agent.stub("openssl", "exit 1\n")
    agent.stub("hostname", "echo 192.0.2.1 2001:db8::1\n")
    answer: Answer = agent.run("served", "a.test")
    sections = [answer.section(f"served {address}") for address in ("127.0.0.1", "192.0.2.1", "2001:db8::1")]
    assert sections == ["", "", ""]


def test_standin_is_executable() -> None:
    assert os.access(STANDIN, os.X_OK)


def test_inspect_tells_which_parts_of_certbots_files_are_there(agent: Agent) -> None:
    le = agent.letsencrypt
    for folder in (
        "renewal",
        "live/whole.test",
        "archive/whole.test",
        "archive/left.test",
        "live/plain.test",
    ):
        (le / folder).mkdir(parents=True)
    (le / "renewal/whole.test.conf").write_text("version = 2.1.0")
    (le / "archive/whole.test/cert1.pem").write_text("x")
    (le / "live/whole.test/cert.pem").symlink_to(le / "archive/whole.test/cert1.pem")
    (le / "archive/left.test/cert1.pem").write_text("x")
    (le / "renewal/left.test.conf").touch()
    (le / "live/plain.test/cert.pem").write_text("x")
    answer = agent.run("inspect", "whole.test", "left.test", "plain.test", "none.test")
    assert (answer.section("lineages") or "").splitlines() == [
        "whole.test yes yes yes",
        "left.test broken no yes",
        "plain.test no broken no",
        "none.test no no no",
    ]
