"""What the script makes of its arguments: certbot's command line, and nothing at all of hostile ones."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.agent import SCRIPT, WORDS, Agent, Answer

BASE = [
    "-n",
    "--agree-tos",
    "--cert-name",
    "a.test",
    "--logs-dir",
    "{logs}/a.test",
    "--max-log-backups",
    "10",
]
ORDER = ["--server", "https://ca.test/dir", "--renew-with-new-domains", "--keep-until-expiring"]
NO_EMAIL = ["--register-unsafely-without-email"]
TOKEN = "probe-token-0123456789"


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    made = Agent(tmp_path)
    yield made
    assert not (tmp_path / "pwned").exists()


def argv_of(agent: Agent, *words: str) -> list[str]:
    answer = agent.run("start", 1, "j", 1, *words)
    assert (answer.result, answer.stderr) == ("OK", "")
    argv = agent.argv()
    agent.wait_over(1)
    return argv


def expected(agent: Agent, head: list[str], *tail: list[str]) -> list[str]:
    return [word.format(logs=agent.logs) for part in (head, BASE, *tail) for word in part]


# --- certbot's command line -----------------------------------------------------------------------------------------


def test_webroot_run_gives_each_name_its_own_root_and_does_not_sleep(agent: Agent, tmp_path: Path) -> None:
    first, second = tmp_path / "first root", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    argv = argv_of(
        agent, "action=run", "auth=webroot", "redirect=yes", "server=https://ca.test/dir", "email=ops+x@ca.test", "name=a.test",
        f"webroot={first}", "domain=a.test", f"webroot={second}", "domain=www.a.test",
    )  # fmt: skip
    head = ["run", "-a", "webroot", "-i", "nginx", "--nginx-sleep-seconds", "0"]
    names = ["-w", str(first), "-d", "a.test", "-w", str(second), "-d", "www.a.test"]
    assert argv == expected(agent, head + names, ["--redirect"], ORDER, ["--email", "ops+x@ca.test"])


def test_nginx_run_keeps_the_sleep_after_a_reload(agent: Agent) -> None:
    head = ["run", "-a", "nginx", "-i", "nginx", "-d", "a.test"]
    assert argv_of(agent, *WORDS) == expected(agent, head, ["--redirect"], ORDER, NO_EMAIL)


def test_no_redirect_and_force_are_said_aloud(agent: Agent) -> None:
    argv = argv_of(agent, *(word for word in WORDS if word != "redirect=yes"), "redirect=no", "force=yes")
    assert "--no-redirect" in argv
    assert "--force-renewal" in argv
    assert not {"--redirect", "--keep-until-expiring", "-q"} & set(argv)


def test_certonly_installs_nothing(agent: Agent) -> None:
    words = ("action=certonly", "auth=nginx", "server=https://ca.test/dir", "name=a.test", "domain=a.test")
    head = ["certonly", "-a", "nginx", "-d", "a.test"]
    assert argv_of(agent, *words) == expected(agent, head, ORDER, NO_EMAIL)


def test_dry_run_goes_to_the_given_server(agent: Agent, tmp_path: Path) -> None:
    words = ("action=dryrun", "auth=webroot", "server=http://127.0.0.1:14000/dir", "name=a.test")
    argv = argv_of(agent, *words, f"webroot={tmp_path}", "domain=a.test")
    head = ["certonly", "-a", "webroot", "-w", str(tmp_path), "-d", "a.test"]
    order = ["--server", "http://127.0.0.1:14000/dir", *ORDER[2:]]
    assert argv == expected(agent, head, order, NO_EMAIL, ["--dry-run"])


def test_install_makes_no_order(agent: Agent) -> None:
    argv = argv_of(agent, "action=install", "redirect=yes", "name=a.test", "domain=a.test", "domain=b.a.test")
    head = ["install", "-i", "nginx", "--nginx-sleep-seconds", "0", "-d", "a.test", "-d", "b.a.test"]
    assert argv == expected(agent, head, ["--redirect"])


def test_account_key_type_and_profile_only_when_given(agent: Agent) -> None:
    argv = argv_of(agent, *WORDS, "account=0123abcdef", "keytype=ecdsa", "profile=shortlived")
    assert argv[-6:] == [
        "--account",
        "0123abcdef",
        "--key-type",
        "ecdsa",
        "--preferred-profile",
        "shortlived",
    ]


def test_certbot_runs_with_the_usual_umask_and_a_utf8_locale(agent: Agent) -> None:
    (agent.bin / "certbot").unlink()
    agent.stub("certbot", 'umask; echo "$LC_ALL"\n')
    agent.start(1)
    agent.wait_over(1)
    assert agent.run("collect", 1, "j", 1).decoded("out") == b"0022\nC.UTF-8\n"


# --- External Account Binding ---------------------------------------------------------------------------------------

KEY = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajV-oguysqZ9wG4_nMEtx3MUAsUDkMTQ12W"


def start_with_key(agent: Agent, key: bytes) -> subprocess.CompletedProcess[bytes]:
    command = agent.command("start", 1, "j", 1, *WORDS, "eab=kid-1")
    return subprocess.run(command, env=agent.env, input=key, capture_output=True, timeout=60, check=False)


def test_the_key_of_a_binding_goes_to_certbot_in_a_file_that_is_gone_after_the_run(
    agent: Agent, tmp_path: Path
) -> None:
    (agent.bin / "certbot").unlink()
    seen = tmp_path / "seen"
    agent.stub(
        "certbot",
        f'for f; do :; done; {{ stat -c %a:%U "$f"; cat "$f"; }} >{seen}; cat /proc/*/cmdline /proc/*/environ >{seen}.ps 2>/dev/null; :\n',
    )
    assert start_with_key(agent, KEY.encode()).stdout.endswith(b"result=OK\n")
    agent.wait_over(1)
    owner = f"600:{Path.home().owner()}"
    assert seen.read_text().splitlines() == [owner, "eab-kid = kid-1", f"eab-hmac-key = {KEY}"]
    assert KEY.encode() not in (tmp_path / "seen.ps").read_bytes()
    assert not (agent.jobs / "j.1" / "eab.ini").exists()
    assert not [f for f in agent.jobs.rglob("*") if f.is_file() and KEY.encode() in f.read_bytes()]


@pytest.mark.parametrize(
    "key",
    [
        b"",
        b"short",
        b"-" * 15,
        KEY.encode() + b"\nserver = https://evil.test",
        b"a b" * 9,
        b"$(touch pwned)" * 3,
        b"a" * 513,
        b"=" * 40,
    ],
)
def test_a_hostile_key_of_a_binding_runs_nothing(agent: Agent, key: bytes) -> None:
    done = start_with_key(agent, key)
    assert done.stdout.splitlines()[-1] == b"result=USAGE"
    assert done.stderr == b""
    assert agent.starts() == 0
    assert not (agent.jobs / "j.1").exists()


def test_a_run_that_died_leaves_no_key_behind(agent: Agent) -> None:
    (agent.bin / "certbot").unlink()
    agent.stub("certbot", 'kill -9 "$PPID"; kill -9 $$\n')
    start_with_key(agent, KEY.encode())
    assert agent.wait_over(1)["run"] == "DEAD"
    assert not (agent.jobs / "j.1" / "eab.ini").exists()


# --- hostile and broken arguments -----------------------------------------------------------------------------------

HOSTILE = [
    "", " ", "-x", "--help", "a b", "a\nb", "a\rb", "a\tb", "a.test\nresult=OK", "$(touch pwned)", "`touch pwned`",
    "a.test;touch pwned", "a.test|touch pwned", "a.test&touch pwned", "a.test>pwned", "${IFS}", "'", '"', "\\", "*", "?",
    "[a-z]", "~", "../../etc/passwd", "/etc/passwd", "a/../b", ".", "..", ".a", "a.", "a..b", "-a.test", "a-.test", "a.-b",
    "A.TEST", "ä.test", "xn--\u202e.test", "a" * 300 + ".test", "a.test,b.test", "a_b.test", "%n", "\x1b[2J", "\x7f", "a=b",
]  # fmt: skip


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize(
    "key",
    ["domain", "name", "server", "email", "account", "profile", "keytype", "eab", "action", "auth", "force"],
)
def test_hostile_value_of_start_runs_nothing(agent: Agent, key: str, value: str) -> None:
    words = [word for word in WORDS if not word.startswith(key + "=")]
    answer = agent.run("start", 1, "j", 1, *words, f"{key}={value}")
    assert (answer.result, answer.exit_code, answer.stderr) == ("USAGE", 2, "")
    assert len(answer.lines) == 3
    assert agent.starts() == 0
    assert not (agent.jobs / "j.1").exists()


@pytest.mark.parametrize("value", ["relative", "./x", "-w", "/srv\n/x", "/srv\x07", "/" + "a" * 5000, ""])
def test_hostile_webroot_runs_nothing(agent: Agent, value: str) -> None:
    words = [word for word in WORDS if word[:4] not in {"auth", "doma"}]
    answer = agent.run("start", 1, "j", 1, *words, "auth=webroot", f"webroot={value}", "domain=a.test")
    assert answer.result == "USAGE"
    assert agent.run("probe", 1, "j", TOKEN, f"webroot={value}").result == "USAGE"
    assert agent.starts() == 0


@pytest.mark.parametrize(
    "words",
    [
        ["auth=webroot", "domain=a.test"],
        ["auth=webroot", "webroot=/tmp", "domain=a.test", "domain=b.test"],
        ["auth=nginx", "webroot=/tmp", "domain=a.test"],
        ["auth=nginx"],
        ["domain=a.test"],
        ["auth=nginx", "domain=a.test", "--pre-hook=touch pwned"],
        ["auth=nginx", "domain=a.test", "--", "--config=/tmp/x"],
        ["auth=nginx", "domain=a.test", "domain"],
    ],
)
def test_incomplete_or_unknown_words_run_nothing(agent: Agent, words: list[str]) -> None:
    base = ["action=run", "redirect=yes", "server=https://ca.test/dir", "name=a.test"]
    assert agent.run("start", 1, "j", 1, *base, *words).result == "USAGE"
    for missing in range(len(WORDS)):
        assert agent.run("start", 1, "j", 1, *WORDS[:missing], *WORDS[missing + 1 :]).result == "USAGE"
    assert agent.starts() == 0


@pytest.mark.parametrize("value", HOSTILE)
def test_hostile_words_are_refused_wherever_they_stand(agent: Agent, value: str) -> None:
    commands: list[list[object]] = [
        [value, 1, "j", 1],
        ["look", value, "j", 1],
        ["look", 1, value, 1],
        ["look", 1, "j", value],
        ["clean", 1, "j", value],
        ["look", 1, "j", 1, value],
        ["probe", 1, "j", value, "webroot=/nonexistent"],
        ["probe", 1, "j", TOKEN, value],
        ["inspect", value],
        ["served", value],
    ]
    for command in commands:
        answer = agent.run(*command)
        assert (answer.result, answer.exit_code, answer.stderr) == ("USAGE", 2, ""), command
        assert len(answer.lines) == 3


@pytest.mark.parametrize("number", ["01", "9" * 19, "1e3", "0x1", "+1", "-1", "1.0", " 1"])
def test_numbers_have_one_spelling(agent: Agent, number: str) -> None:
    """Two spellings of one attempt would be two directories, and so two orders."""
    assert agent.run("look", number, "j", 1).result == "USAGE"
    assert agent.run("look", 1, "j", number).result == "USAGE"


@pytest.mark.parametrize("verb", ["void", "stop", "clean", "collect", "unprobe"])
def test_surplus_arguments_are_refused(agent: Agent, verb: str) -> None:
    third = TOKEN if verb == "unprobe" else 1
    assert agent.run(verb, 1, "j", third, "more").result == "USAGE"
    assert agent.run(verb, 1, "j").result == "USAGE"


def test_attempt_zero_is_for_looking_only(agent: Agent) -> None:
    assert agent.run("look", 1, "j", 0).result == "OK"
    assert agent.run("void", 1, "j", 0).result == "USAGE"
    assert agent.run("start", 1, "j", 0, *WORDS).result == "USAGE"


# --- sudo and forced commands ---------------------------------------------------------------------------------------


def forced(agent: Agent, original: str, **extra: str) -> Answer:
    """Run without arguments, the words in the variable. A copy keeps the overrides, which the real script drops."""
    copy = agent.home.parent / "open.sh"
    text = SCRIPT.read_text()
    opened = text.replace("|| unset CERTPILOT_HOME CERTPILOT_LETSENCRYPT CERTPILOT_LOGS", "|| true")
    assert opened != text
    copy.write_text(opened)
    done = subprocess.run(
        ["sh", str(copy)],
        env=agent.env | {"SSH_ORIGINAL_COMMAND": original} | extra,
        cwd=agent.home.parent,
        capture_output=True,
        timeout=30,
        check=False,
    )
    return Answer(done.stdout.decode(), done.returncode, done.stderr.decode())


def test_forced_command_is_split_like_a_shell_would(agent: Agent, tmp_path: Path) -> None:
    root = tmp_path / "it's a 'root' $HOME * \\"
    root.mkdir()
    quoted = "'" + f"webroot={root}".replace("'", "'\"'\"'") + "'"
    words = (
        f"action=certonly auth=webroot 'server=https://ca.test/dir?x=~y' name=a.test {quoted} domain=a.test"
    )
    answer = forced(agent, f"sudo -n /usr/local/sbin/certpilot-agent start 3 j 1 {words}")
    assert answer.result == "OK"
    argv = agent.argv()
    assert argv[argv.index("-w") + 1] == str(root)
    assert argv[argv.index("--server") + 1] == "https://ca.test/dir?x=~y"


@pytest.mark.parametrize(
    "original",
    [
        "look 3 j 1; touch pwned",
        "look 3 j 1 && touch pwned",
        "look 3 j $(touch pwned)",
        "look 3 j `touch pwned`",
        "look 3 j 1 > pwned",
        "look 3 j *",
        "look 3 j 1 'a.test",
        "look 3 j 1\ntouch pwned",
        "sh -c 'touch pwned'",
        "touch pwned",
        "",
        " ",
        "sudo -n /usr/local/sbin/certpilot-agent",
        "/bin/sh",
        "scp -t /etc",
        "internal-sftp",
    ],
)
def test_forced_command_runs_nothing_else(agent: Agent, original: str) -> None:
    answer = forced(agent, original)
    assert (answer.result, answer.exit_code) == ("USAGE", 2)


@pytest.mark.parametrize("variable", ["SUDO_COMMAND", "SUDO_USER", "SSH_ORIGINAL_COMMAND"])
def test_whoever_comes_through_sudo_chooses_no_paths(agent: Agent, tmp_path: Path, variable: str) -> None:
    """The head of the real script, up to where the paths are fixed, shows which ones would be used."""
    head = SCRIPT.read_text().split("KEEP_BYTES=")[0] + 'printf "%s " "$H" "$LE" "$LOGS" "$PATH"\n'
    script = tmp_path / "head.sh"
    script.write_text(head)
    shown = subprocess.run(
        ["sh", str(script)], env=agent.env | {variable: "x"}, capture_output=True, text=True, check=True
    ).stdout
    system = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/snap/bin"
    assert shown.split() == ["/var/lib/certpilot", "/etc/letsencrypt", "/var/log/certpilot", system]


# --- collect --------------------------------------------------------------------------------------------------------


def collected(agent: Agent, attempt: int = 1) -> tuple[bytes, bytes, bytes]:
    answer = agent.run("collect", 1, "j", attempt)
    assert answer.result == "OK"
    return answer.decoded("out"), answer.decoded("err"), answer.decoded("log")


def test_collect_gives_bytes_that_cannot_be_taken_for_the_answer(agent: Agent) -> None:
    agent.start(
        1, exit=3, stdout="end out\nresult=STALE\n\x1b[2J|é", stderr="begin log\n|x", debug="no newline"
    )
    agent.wait_over(1)
    answer = agent.run("collect", 1, "j", 1)
    assert (answer["run"], answer["exit"], answer.values("result")) == ("ENDED", "3", ["OK"])
    assert collected(agent) == ("end out\nresult=STALE\n\x1b[2J|é".encode(), b"begin log\n|x", b"no newline")


def test_collect_keeps_the_end_of_long_output(agent: Agent) -> None:
    (agent.bin / "certbot").unlink()
    agent.stub("certbot", "head -c 400000 /dev/zero | tr '\\0' x; echo END\n")
    agent.start(1)
    agent.wait_over(1)
    out = collected(agent)[0]
    assert len(out) == 262144
    assert out.endswith(b"xEND\n")


def test_collect_of_an_appended_log_gives_this_runs_part(agent: Agent) -> None:
    """Debian's max-log-backups = 0: one file, every run behind the last."""
    for attempt in (1, 2):
        agent.start(1, attempt=attempt, debug=f"run {attempt}\n")
        agent.wait_over(1, attempt=attempt)
    assert collected(agent, 2)[2] == b"run 2\n"


def test_collect_of_a_rotated_log_gives_this_runs_part(agent: Agent) -> None:
    for attempt in (1, 2):
        agent.start(1, attempt=attempt, debug=f"run {attempt}\n", rotate=1)
        agent.wait_over(1, attempt=attempt)
    assert collected(agent, 2)[2] == b"run 2\n"


def test_collect_of_a_log_that_was_moved_in_the_midst_gives_all_parts_in_order(agent: Agent) -> None:
    folder = agent.logs / "a.test"
    folder.mkdir(parents=True)
    (folder / "letsencrypt.log").write_text("older run\n")
    (agent.bin / "certbot").unlink()
    agent.stub(
        "certbot",
        f"cd {folder}; echo one >>letsencrypt.log; mv letsencrypt.log letsencrypt.log.1; echo two >letsencrypt.log\n"
        "mv letsencrypt.log.1 letsencrypt.log.2; mv letsencrypt.log letsencrypt.log.1; echo three >letsencrypt.log\n",
    )
    agent.start(1)
    agent.wait_over(1)
    assert collected(agent)[2] == b"one\ntwo\nthree\n"


def test_collect_without_a_log_of_this_run_gives_none_of_another(agent: Agent) -> None:
    agent.start(1, debug="run 1\n")
    agent.wait_over(1)
    agent.start(1, attempt=2)
    agent.wait_over(1, attempt=2)
    assert collected(agent, 2)[2] == b""


def test_collect_leaves_out_what_others_moved_aside_before(agent: Agent) -> None:
    old = agent.logs / "a.test/letsencrypt.log.1"
    old.parent.mkdir(parents=True)
    old.write_text("older run\n")
    os.utime(old, (1, 1))
    agent.start(1, debug="this run\n")
    agent.wait_over(1)
    assert collected(agent)[2] == b"this run\n"


def test_collect_finds_the_early_log_of_a_refusal(agent: Agent) -> None:
    folder = Path(
        subprocess.run(
            ["mktemp", "-d", "/tmp/certbot-log-XXXXXX"], capture_output=True, text=True, check=True
        ).stdout[:-1]
    )
    (folder / "log").write_text("Another instance\n")
    agent.start(
        1, stderr=f"Saving debug log to {folder}/log\nAnother instance of Certbot is already running.\n"
    )
    agent.wait_over(1)
    assert collected(agent)[2] == b"Another instance\n"
    (folder / "log").unlink()
    (folder / "log").symlink_to("/etc/hostname")
    assert collected(agent)[2] == b""
    (folder / "log").unlink()
    folder.rmdir()


@pytest.mark.parametrize(
    "path",
    ["/etc/hostname", "/tmp/certbot-log-x/../../etc/hostname", "/tmp/certbot-log-/log/../../etc/hostname"],
)
def test_collect_reads_no_file_that_certbots_words_merely_name(agent: Agent, path: str) -> None:
    agent.start(1, stderr=f"Saving debug log to {path}\n", stdout="Saving debug log to /etc/hostname\n")
    agent.wait_over(1)
    assert collected(agent)[2] == b""


def test_collect_of_an_attempt_that_never_was(agent: Agent) -> None:
    answer = agent.run("collect", 1, "j", 1)
    assert (answer.result, answer["run"]) == ("OK", "ABSENT")
    assert answer.section("out") is None


def test_killed_certbot_was_out_of_memory_only_where_the_kernel_has_killed_since(agent: Agent) -> None:
    agent.start(1, seconds=60)
    os.kill(agent.wait_pid(), signal.SIGKILL)
    ended = agent.wait_over(1)
    assert (ended["run"], ended["exit"], ended["oom"]) == ("ENDED", "137", None)
    (agent.jobs / "j.1" / "oom").write_text("-1")
    assert agent.run("look", 1, "j", 1)["oom"] == "yes"
    (agent.jobs / "j.1" / "oom").unlink()
    answer = agent.run("look", 1, "j", 1)
    assert (answer["oom"], answer.stderr) == (None, "")
