"""The script on the server against concurrent, stale, repeated and killed commands (counterexamples a, b, g to m, r, u)."""

import fcntl
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.agent import SCRIPT, WORDS, Agent, Answer, is_running, parent_of, wait_for


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    made = Agent(tmp_path)
    yield made
    for pid_file in made.jobs.glob("*/pid"):  # nothing that a test started outlives it
        pid = int(pid_file.read_text() or 0)
        if pid and str(made.bin / "certbot").encode() in _command_line(pid):
            os.kill(pid, signal.SIGKILL)


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def hold_agent_lock(agent: Agent) -> int:
    agent.home.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(agent.home / "agent.lock", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor


def waits_for_lock(pid: int) -> bool:
    """Whether the script, or the flock(1) it started, is blocked in the kernel on a file lock."""
    blocked = [line.split() for line in Path("/proc/locks").read_text().splitlines() if "->" in line]
    return any(int(fields[5]) == pid or parent_of(int(fields[5])) == pid for fields in blocked)


# --- one run, and what LOOK says of it ------------------------------------------------------------------------------


def test_start_answers_while_the_run_goes_on(agent: Agent) -> None:
    before = time.monotonic()
    answer = agent.start(5, seconds=20)
    assert answer.result == "OK"
    assert answer["run"] == "ALIVE"
    assert time.monotonic() - before < 5
    assert agent.run("look", 5, "j", 1)["run"] == "ALIVE"


def test_second_start_attaches_to_the_run(agent: Agent) -> None:
    agent.start(5, seconds=1)
    assert agent.start(5, seconds=1)["run"] == "ALIVE"
    agent.wait_over(5)
    assert agent.starts() == 1


def test_start_of_an_ended_attempt_answers_its_code_and_runs_nothing(agent: Agent) -> None:
    agent.start(5, exit=1)
    agent.wait_over(5)
    again = agent.start(5)
    assert (again["run"], again["exit"], agent.starts()) == ("ENDED", "1", 1)


def test_another_job_is_busy_and_makes_no_directory(agent: Agent) -> None:
    """Counterexample u: two jobs of one server never run together."""
    agent.start(5, seconds=20)
    assert agent.start(6, "k").result == "BUSY"
    assert not (agent.jobs / "k.1").exists()
    look = agent.run("look", 6, "k", 0)
    assert look["run"] == "ABSENT"
    assert look["other"] == "yes"


def test_own_run_is_not_another_run(agent: Agent) -> None:
    agent.start(5, seconds=20)
    assert agent.run("look", 5, "j", 1)["other"] is None


def test_ended_run_tells_its_exit_code(agent: Agent) -> None:
    agent.start(5, exit=0)
    assert agent.wait_over(5)["exit"] == "0"
    agent.start(5, attempt=2, exit=7)
    assert agent.wait_over(5, attempt=2)["exit"] == "7"


def test_each_attempt_has_its_own_directory(agent: Agent) -> None:
    """Counterexample g: the second attempt must not attach to the exit code of the first."""
    agent.start(5, exit=1)
    agent.wait_over(5)
    assert agent.start(5, attempt=2, seconds=20)["run"] == "ALIVE"
    wait_for(lambda: agent.starts() == 2, "the second attempt runs")


def test_run_is_never_seen_dead_between_start_and_end(agent: Agent) -> None:
    """Counterexample r: the lock is inherited, so there is no moment in which a living run looks dead."""
    for attempt in range(1, 21):
        assert agent.start(5, attempt=attempt, seconds=0.2)["run"] == "ALIVE"
        seen = [agent.run("look", 5, "j", attempt)["run"] for _ in range(3)]
        assert set(seen) <= {"ALIVE", "ENDED"}, seen
        agent.wait_over(5, attempt=attempt)
    assert agent.starts() == 20


def test_stage_follows_what_certbot_prints(agent: Agent) -> None:
    agent.start(5, seconds=20, stdout="Requesting a certificate for a.test\n")
    agent.wait_pid()
    assert agent.run("look", 5, "j", 1)["stage"] == "requesting"
    agent.run("stop", 5, "j", 1)
    agent.wait_over(5)
    agent.start(5, attempt=2, seconds=20, stdout="\nSuccessfully received certificate.\n")
    wait_for(lambda: agent.run("look", 5, "j", 2)["stage"] == "installing", "installing is seen")


def test_certificate_is_read_after_liveness(agent: Agent) -> None:
    """Counterexample l: a certificate that arrives right after the liveness check is in the answer."""
    certificate = agent.letsencrypt / "live/a.test/cert.pem"
    certificate.parent.mkdir(parents=True)
    agent.start(5)
    agent.wait_over(5)
    agent.stub(
        "flock",
        f'/usr/bin/flock "$@"; code=$?; case $2 in *j.1/lock) echo PEM >{certificate};; esac; exit $code\n',
    )
    answer = agent.run("look", 5, "j", 1, "a.test")
    assert answer["run"] == "ENDED"
    assert answer.section("certificate") == "PEM"


def test_look_without_certificate_has_no_section(agent: Agent) -> None:
    answer = agent.run("look", 5, "j", 0, "a.test")
    assert answer.result == "OK"
    assert answer.section("certificate") is None


def test_certbot_lock_of_anybody_is_seen(agent: Agent) -> None:
    lock = agent.letsencrypt / ".certbot.lock"
    lock.parent.mkdir()
    lock.touch()
    assert agent.run("look", 5, "j", 0)["certbot"] is None
    with lock.open("r+") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)  # certbot's kind of lock, which flock(1) does not see
        assert agent.run("look", 5, "j", 0)["certbot"] == "busy"
    assert agent.run("look", 5, "j", 0)["certbot"] is None


# --- the fence ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["look", "start", "void", "stop", "collect", "clean"])
def test_older_fence_is_refused_by_every_verb(agent: Agent, verb: str) -> None:
    """Counterexample a: the command of a worker that lost its claim changes nothing, however late it comes."""
    agent.start(5, seconds=20)
    pid = agent.wait_pid()
    agent.run("look", 6, "j", 1)
    words = WORDS if verb == "start" else ()
    for attempt in (1, 2):
        answer = agent.run(verb, 5, "j", attempt, *words)
        assert (answer.result, answer["fence"], answer.exit_code) == ("STALE", "6", 0)
    assert is_running(pid)
    assert not (agent.jobs / "j.2").exists()
    assert agent.starts() == 1


@pytest.mark.parametrize("verb", ["probe", "unprobe"])
def test_older_fence_is_refused_by_the_probe(agent: Agent, verb: str, tmp_path: Path) -> None:
    token, root = "t" * 20, tmp_path / "root"
    root.mkdir()
    agent.run("probe", 6, "j", token, f"webroot={root}")
    words = [f"webroot={root}"] if verb == "probe" else []
    assert agent.run(verb, 5, "j", token, *words).result == "STALE"
    assert (root / ".well-known/acme-challenge" / token).exists()


def test_fence_is_checked_under_the_lock(agent: Agent) -> None:
    """Counterexample b: A waits at the door, B raises the fence inside; A must find it raised."""
    lock = hold_agent_lock(agent)
    late = agent.begin("start", 5, "j", 1, *WORDS)
    wait_for(lambda: waits_for_lock(late.pid), "A is at the door")
    (agent.home / "fence").write_text("6\n")
    os.close(lock)
    text, _ = late.communicate(timeout=20)
    assert text.splitlines()[-1] == "result=STALE"
    assert not (agent.jobs / "j.1").exists()
    assert agent.starts() == 0


def test_lock_that_stays_held_is_agent_busy(agent: Agent) -> None:
    agent.stub(
        "flock", '[ "$1" = -w ] && { shift 2; exec /usr/bin/flock -w 0.3 "$@"; }; exec /usr/bin/flock "$@"\n'
    )
    lock = hold_agent_lock(agent)
    answer = agent.start(5)
    os.close(lock)
    assert (answer.result, answer.exit_code) == ("AGENT_BUSY", 0)
    assert not (agent.jobs / "j.1").exists()
    assert not (agent.home / "fence").exists()


def test_fence_that_cannot_be_stored_changes_nothing(agent: Agent) -> None:
    agent.run("look", 5, "j", 0)
    agent.stub("sync", "exit 1\n")
    answer = agent.start(6)
    assert (answer.result, answer.exit_code) == ("ERROR", 1)
    assert (agent.home / "fence").read_text() == "5\n"
    assert agent.starts() == 0


def test_damaged_fence_file_is_an_error_not_a_zero(agent: Agent) -> None:
    agent.run("look", 5, "j", 0)
    (agent.home / "fence").write_text("rubbish\n")
    assert agent.start(6).result == "ERROR"
    assert agent.starts() == 0


def test_after_clean_the_old_start_is_stale(agent: Agent) -> None:
    agent.start(3)
    agent.wait_over(3)
    assert agent.run("clean", 4, "j", 1).result == "OK"
    assert not (agent.jobs / "j.1").exists()
    assert agent.start(3).result == "STALE"
    assert agent.starts() == 1


def test_clean_leaves_a_living_run_and_other_jobs(agent: Agent) -> None:
    for attempt in (1, 2):
        agent.start(3, attempt=attempt)
        agent.wait_over(3, attempt=attempt)
    agent.run("void", 3, "other", 1)
    agent.start(3, attempt=3, seconds=20)
    agent.run("clean", 3, "j", 3)
    assert sorted(path.name for path in agent.jobs.iterdir()) == ["j.3", "other.1"]


# --- VOID -----------------------------------------------------------------------------------------------------------


def test_start_after_void_with_the_same_fence_starts_nothing(agent: Agent) -> None:
    """Counterexample i: no fence orders one holder's own commands; VOID does."""
    assert agent.run("void", 3, "j", 1)["run"] == "VOID"
    late = agent.start(3)
    assert (late.result, late["run"], agent.starts()) == ("OK", "VOID", 0)
    assert agent.run("look", 3, "j", 1)["run"] == "VOID"


def test_void_of_a_living_run_changes_nothing(agent: Agent) -> None:
    agent.start(3, seconds=20)
    assert agent.run("void", 3, "j", 1)["run"] == "ALIVE"
    assert not (agent.jobs / "j.1/void").exists()


# --- kills, reboots, strangers --------------------------------------------------------------------------------------


def test_run_whose_wrapper_was_killed_is_alive_then_dead(agent: Agent) -> None:
    """Counterexample k: certbot itself holds the lock, so killing the wrapper hides nothing."""
    agent.start(1, seconds=1.5)
    os.kill(parent_of(agent.wait_pid()), signal.SIGKILL)
    assert agent.run("look", 1, "j", 1)["run"] == "ALIVE"
    assert agent.start(1, "k").result == "BUSY"
    over = agent.wait_over(1)
    assert (over["run"], over["exit"], over["begun"]) == ("DEAD", None, None)
    assert agent.log_lines()[-1] == "end"


def test_run_whose_wrapper_and_certbot_were_killed_is_dead(agent: Agent) -> None:
    agent.start(1, seconds=20)
    pid = agent.wait_pid()
    for victim in (parent_of(pid), pid):
        os.kill(victim, signal.SIGKILL)
    over = agent.wait_over(1)
    assert (over["run"], over["begun"], over["rebooted"]) == ("DEAD", None, None)


def test_stranger_with_the_old_pid_is_neither_alive_nor_touched(agent: Agent) -> None:
    """Counterexample h: after a reboot the pid belongs to somebody else."""
    agent.start(1, seconds=20)
    pid = agent.wait_pid()
    for victim in (parent_of(pid), pid):
        os.kill(victim, signal.SIGKILL)
    agent.wait_over(1)
    with subprocess.Popen(["sleep", "60"]) as stranger:
        (agent.jobs / "j.1/pid").write_text(f"{stranger.pid}\n")
        assert agent.run("look", 1, "j", 1)["run"] == "DEAD"
        assert agent.run("stop", 1, "j", 1)["signalled"] is None
        assert is_running(stranger.pid)
        stranger.kill()


def test_stop_of_a_living_run_does_not_signal_a_stranger(agent: Agent) -> None:
    agent.start(1, seconds=20)
    agent.wait_pid()
    with subprocess.Popen(["sleep", "60"]) as stranger:
        (agent.jobs / "j.1/pid").write_text(f"{stranger.pid}\n")
        assert agent.run("stop", 1, "j", 1)["signalled"] is None
        assert is_running(stranger.pid)
        stranger.kill()


def test_other_boot_id_is_a_reboot(agent: Agent) -> None:
    agent.start(1, seconds=20)
    pid = agent.wait_pid()
    for victim in (parent_of(pid), pid):
        os.kill(victim, signal.SIGKILL)
    agent.wait_over(1)
    (agent.jobs / "j.1/boot").write_text("another-boot\n")
    assert agent.run("look", 1, "j", 1)["rebooted"] == "yes"


def test_script_that_died_after_mkdir_left_an_attempt_that_never_starts(agent: Agent) -> None:
    (agent.jobs / "j.1").mkdir(parents=True)
    look = agent.run("look", 1, "j", 1)
    assert (look["run"], look["begun"]) == ("DEAD", "no")
    assert agent.start(1)["run"] == "DEAD"
    assert agent.starts() == 0


def test_attempt_is_on_disk_before_certbot_starts(agent: Agent) -> None:
    """Counterexample m: after a power cut a directory that was not synced would let the attempt order again."""
    synced = agent.home.parent / "synced"
    agent.stub(
        "sync", f'[ -e {agent.log} ] && echo late >>{synced}; echo "$@" >>{synced}; exec /usr/bin/sync "$@"\n'
    )
    agent.start(1, seconds=1)
    agent.wait_over(1)
    before = synced.read_text().split("late")[0].split()
    assert {str(agent.jobs), str(agent.jobs / "j.1"), str(agent.jobs / "j.1/boot"), "begun"} <= set(before)


def test_attempt_that_cannot_be_synced_is_not_started(agent: Agent) -> None:
    agent.run("look", 1, "j", 0)
    agent.stub("sync", "exit 1\n")
    assert agent.start(1).result == "ERROR"
    (agent.bin / "sync").unlink()
    look = agent.run("look", 1, "j", 1)
    assert (look["run"], look["begun"], agent.starts()) == ("DEAD", "no", 0)


def test_run_is_not_begun_when_begun_cannot_be_synced(agent: Agent) -> None:
    """`begun=no` gives the reserved order back, so certbot must not run unless `begun` is on the disk."""
    agent.stub("sync", 'case $1 in begun) rm begun; exit 1;; esac; exec /usr/bin/sync "$@"\n')
    agent.start(1)
    over = agent.wait_over(1)
    assert (over["run"], over["begun"], agent.starts()) == ("DEAD", "no", 0)


# --- STOP, daemons, lost replies ------------------------------------------------------------------------------------


def test_stop_terminates_certbot_and_its_code_is_kept(agent: Agent) -> None:
    agent.start(3, seconds=20)
    agent.wait_pid()
    assert agent.run("stop", 3, "j", 1)["signalled"] == "yes"
    assert agent.wait_over(3)["exit"] == "143"


def test_daemon_of_a_hook_does_not_keep_the_run_alive(agent: Agent) -> None:
    agent.start(3, daemon=1)
    assert agent.wait_over(3)["run"] == "ENDED"
    assert agent.start(3, "k")["run"] == "ALIVE"


def test_run_lives_when_nobody_reads_the_reply(agent: Agent) -> None:
    closed = 'exec "$@" >&- 2>&-'
    subprocess.run(
        ["sh", "-c", closed, "sh", *agent.command("start", 3, "j", 1, *WORDS)],
        env=agent.environment(seconds=0.5),
        check=False,
    )
    assert agent.wait_over(3)["exit"] == "0"


def test_run_survives_the_hang_up_of_its_session(agent: Agent) -> None:
    # The tests themselves may run under nohup, and what is ignored is inherited.
    hang_up = ["env", "--default-signal=HUP", "setsid", "sh", "-c", '"$@"; sleep 60', "sh"]
    with subprocess.Popen(
        [*hang_up, *agent.command("start", 3, "j", 1, *WORDS)],
        env=agent.environment(seconds=1),
        stdout=subprocess.DEVNULL,
    ) as session:
        agent.wait_pid()
        os.killpg(session.pid, signal.SIGHUP)
        session.wait(timeout=10)
    assert agent.wait_over(3)["exit"] == "0"


def test_wrapper_outlives_what_ends_its_whole_group(agent: Agent) -> None:
    """A hang-up changes nothing; TERM ends certbot alone, whose code the wrapper still writes down."""
    agent.start(3, seconds=20)
    group = os.getpgid(agent.wait_pid())
    os.killpg(group, signal.SIGHUP)
    assert agent.run("look", 3, "j", 1)["run"] == "ALIVE"
    os.killpg(group, signal.SIGTERM)
    assert agent.wait_over(3)["exit"] == "143"


def test_certbot_gets_no_descriptor_but_the_two_locks(agent: Agent) -> None:
    agent.start(3, seconds=20)
    pid = agent.wait_pid()
    opened = {int(path.name): str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()}
    assert opened.pop(7) == str(agent.jobs / "j.1/lock")
    assert opened.pop(8) == str(agent.home / "run.lock")
    assert opened == {0: "/dev/null", 1: str(agent.jobs / "j.1/out"), 2: str(agent.jobs / "j.1/err")}


def test_everything_is_root_only(agent: Agent) -> None:
    agent.start(3)
    agent.wait_over(3)
    shown = [path for path in (agent.home, *agent.home.rglob("*")) if path.stat().st_mode & 0o077]
    assert shown == []


# --- many at once ---------------------------------------------------------------------------------------------------


def test_forty_parallel_starts_of_one_attempt_are_one_run(agent: Agent) -> None:
    senders = [agent.begin("start", 7, "j", 1, *WORDS, seconds=0.3) for _ in range(40)]
    answers = [Answer(sender.communicate(timeout=60)[0], 0, "") for sender in senders]
    assert {answer.result for answer in answers} == {"OK"}
    agent.wait_over(7)
    assert agent.starts() == 1


def test_thirty_parallel_starts_of_thirty_jobs_are_one_run(agent: Agent) -> None:
    senders = [agent.begin("start", 7, f"j{n}", 1, *WORDS, seconds=30) for n in range(30)]
    results = [Answer(sender.communicate(timeout=60)[0], 0, "").result for sender in senders]
    assert sorted(results) == ["BUSY"] * 29 + ["OK"]
    wait_for(lambda: agent.starts() == 1, "the one run")
    assert len(list(agent.jobs.iterdir())) == 1


def test_storm_of_random_commands_never_runs_two_at_once(agent: Agent) -> None:
    """Random senders, fences and verbs; the seed is printed by pytest when it fails."""
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")  # noqa: T201
    dice = random.Random(seed)
    for batch in range(12):
        senders = []
        for _ in range(15):
            verb = dice.choice(["look", "start", "start", "void", "stop"])
            words = WORDS if verb == "start" else ()
            job, attempt, fence = (
                f"j{dice.randrange(3)}",
                dice.randrange(1, 5),
                1 + batch // 3 + dice.randrange(3),
            )
            senders.append(agent.begin(verb, fence, job, attempt, *words, seconds=dice.choice([0, 0.1, 0.2])))
        for sender in senders:
            sender.communicate(timeout=60)
    wait_for(lambda: agent.run("look", 99, "none", 0)["other"] is None, "all runs are over")
    assert ["start" if n % 2 == 0 else "end" for n in range(len(agent.log_lines()))] == [
        line.split()[0] for line in agent.log_lines()
    ]
    assert 1 <= agent.starts() <= len(list(agent.jobs.iterdir()))


@pytest.mark.parametrize("shell", [["dash"], ["bash", "--posix"]])
def test_script_is_plain_sh(shell: list[str]) -> None:
    checked = subprocess.run([*shell, "-n", str(SCRIPT)], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")
