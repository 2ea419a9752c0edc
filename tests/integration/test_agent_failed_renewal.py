"""What the script tells of the last try to renew a lineage: from certbot's logs, only when asked, and only where it failed."""

import gzip
import os
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.agent import Agent, Answer

NAME, OTHER = "a.test", "b.test"
MOST = 49152
SECRETS = ("c2lnbmF0dXJl", "ZnVsbENTUg", "hunter2", "EC PRIVATE KEY", "account-key")
"""Words of `run`'s log that must stay on the server."""


def stamp(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S,123", time.localtime(at))


class Log:
    """A log as certbot 2.1 writes it (recorded on the lab, shortened)."""

    def __init__(self, at: float | None = None) -> None:
        self.at = time.time() if at is None else at
        self.text = ""

    def say(self, logger: str, text: str, level: str = "DEBUG") -> "Log":
        self.text += f"{stamp(self.at)}:{level}:{logger}:{text}\n"
        return self

    def begin(self) -> "Log":
        self.say("certbot._internal.main", "certbot version: 2.1.0")
        return self.say("certbot._internal.main", "Arguments: ['renew', '--pre-hook', 'login -p hunter2']")

    def processing(self, name: str) -> "Log":
        where = f"Notifying user: Processing /etc/letsencrypt/renewal/{name}.conf"
        return self.say("certbot._internal.display.obj", where)

    def asking(self, reply: str = '{"status": "pending"}') -> "Log":
        self.say("certbot._internal.main", "Picked account: <Account(Registration(key=account-key))>")
        self.say("certbot.compat.misc", "Running pre-hook command: login -p hunter2", "INFO")
        self.say("acme.client", 'JWS payload:\nb\'{"csr": "ZnVsbENTUg"}\'')
        self.say(
            "acme.client", 'Sending POST request to https://ca.test/order:\n{"signature": "c2lnbmF0dXJl"}'
        )
        self.say("urllib3.connectionpool", 'https://ca.test:443 "POST /order HTTP/1.1" 201 379')
        self.say("acme.client", f"Received response:\nHTTP 200\nRetry-After: 600\n\n{reply}")
        return self.say("certbot.x", "-----BEGIN EC PRIVATE KEY-----\nMHcC\n-----END EC PRIVATE KEY-----")

    def failed(self, name: str, error: str = "Some challenges have failed.") -> "Log":
        self.say(
            "certbot._internal.renewal", f"Failed to renew certificate {name} with error: {error}", "ERROR"
        )
        return self.say("certbot._internal.renewal", f"Traceback was:\nTraceback:\n{error}\n")

    def not_due(self) -> "Log":
        return self.say(
            "certbot._internal.display.obj", "Notifying user: Certificate not yet due for renewal"
        )

    def end(self, words: str = "No renewals were attempted.") -> "Log":
        self.say("certbot._internal.display.obj", f"Notifying user: {words}")
        return self.say("certbot._internal.log", "Exiting abnormally:\nTraceback:\nthe end of the run")


def failed_run(name: str = NAME, error: str = "Some challenges have failed.", at: float | None = None) -> Log:
    return Log(at).begin().processing(name).asking().failed(name, error).end("All renewals failed.")


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    made = Agent(tmp_path / "server")
    made.env["CERTPILOT_ROOT"] = str(tmp_path / "root")
    folder(made).mkdir(parents=True)
    live = made.letsencrypt / "live" / NAME
    live.mkdir(parents=True)
    (live / "cert.pem").write_text("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n")
    long_ago = time.time() - 80 * 86400
    os.utime(live / "cert.pem", (long_ago, long_ago))
    return made


def folder(agent: Agent) -> Path:
    return Path(agent.env["CERTPILOT_ROOT"]) / "var/log/letsencrypt"


def write(agent: Agent, log: Log | str, name: str = "letsencrypt.log", *, age: float = 0) -> None:
    data = (log if isinstance(log, str) else log.text).encode()
    path = folder(agent) / name
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    os.utime(path, (time.time() - age, time.time() - age))


def ask(agent: Agent, name: str = NAME) -> Answer:
    answer = agent.run("inspect", name, f"failure={name}")
    assert (answer.result, answer.stderr, answer.section("errors")) == ("OK", "", "")
    return answer


def told(agent: Agent, name: str = NAME) -> str:
    return ask(agent, name).section("failed_renewal") or ""


def test_last_try_that_failed_is_told_with_the_cas_refusal_and_without_secrets(agent: Agent) -> None:
    refusal = '{"type": "urn:ietf:params:acme:error:connection", "detail": "Timeout during connect"}'
    log = Log().begin().processing(OTHER).asking().failed(OTHER, "of the other one")
    log.processing(NAME).asking().asking(refusal).failed(NAME).end("All renewals failed.")
    write(agent, log)
    answer = ask(agent)
    text = answer.section("failed_renewal") or ""
    assert text.splitlines()[0].endswith(f"Processing /etc/letsencrypt/renewal/{NAME}.conf")
    assert (refusal in text, "Retry-After: 600" in text) == (True, True)
    assert f"Failed to renew certificate {NAME} with error: Some challenges have failed." in text
    assert text.endswith("Traceback was:\nTraceback:\nSome challenges have failed.\n")
    assert [word for word in SECRETS if word in answer.text] == []
    assert ("of the other one" in text, "pending" in text, "end of the run" in text) == (False, False, False)


def test_logs_are_read_only_when_asked(agent: Agent) -> None:
    write(agent, failed_run())
    answer = agent.run("inspect", NAME)
    assert (answer.result, answer.section("failed_renewal")) == ("OK", None)


@pytest.mark.parametrize(
    ("words", "level"),
    [
        ("Renewal configuration file /etc/letsencrypt/renewal/a.test.conf is broken.", "ERROR"),
        ("Renewal configuration file /etc/letsencrypt/renewal/a.test.conf (cert: a.test) produced an unexpected error: x. Skipping.", "ERROR"),
        ("Renewal conf file /etc/letsencrypt/renewal/a.test.conf is broken. Skipping.", "WARNING"),
        ("Attempting to renew cert (a.test) from /etc/letsencrypt/renewal/a.test.conf produced an unexpected error: x. Skipping.", "WARNING"),
        ("Attempting to renew cert from /etc/letsencrypt/renewal/a.test.conf produced an unexpected error: x. Skipping.", "WARNING"),
        ("An error occurred while parsing /etc/letsencrypt/renewal/a.test.conf. The error was x. Skipping the file.", "ERROR"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("named", [True, False])
def test_every_wording_of_a_failure_is_known(agent: Agent, words: str, level: str, *, named: bool) -> None:
    """Before 1.0 the log does not say which lineage a run comes to."""
    log = Log().begin()
    if named:
        log.processing(NAME)
    log.say("certbot.renewal", words, level)
    log.say("certbot.renewal", "The error was: why\nSkipping.", "ERROR")
    write(agent, log.end())
    text = told(agent)
    assert words in text
    assert "The error was: why\nSkipping." in text


@pytest.mark.parametrize(
    ("later", "is_told"),
    [
        pytest.param(lambda: Log().begin().processing(NAME).end("Congratulations, all renewals succeeded:"), False, id="renewed"),
        pytest.param(lambda: Log().begin().processing(NAME).not_due().end(), False, id="not due"),
        pytest.param(lambda: Log().begin().processing(NAME).processing(OTHER).failed(OTHER).end("All renewals failed."), False, id="renewed, another failed"),
        pytest.param(lambda: Log().begin().processing(OTHER).failed(OTHER).end(), True, id="not tried"),
        pytest.param(lambda: Log().begin().processing(NAME).asking(), True, id="under way"),
        pytest.param(lambda: Log().begin().processing(NAME).asking().begin().end(), True, id="killed"),
        pytest.param(lambda: Log().say("certbot._internal.display.obj", f"Notifying user: {NAME} (parsefail)"), True, id="mentioned"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("rotated", [True, False])
def test_the_last_try_that_came_to_an_end_decides(
    agent: Agent, later: type[Log], *, is_told: bool, rotated: bool
) -> None:
    earlier = failed_run(at=time.time() - 60)
    if rotated:
        write(agent, earlier, "letsencrypt.log.1", age=60)
        write(agent, later())
    else:
        write(agent, earlier.text + later().text)
    assert (f"Failed to renew certificate {NAME}" in told(agent)) is is_told


@pytest.mark.parametrize("names", [["letsencrypt.log.1", "letsencrypt.log.2"], ["letsencrypt.log", "letsencrypt.log.1.gz"], ["letsencrypt.log-20261122.gz", "letsencrypt.log-20261115.gz"]])  # fmt: skip
def test_newest_log_that_tells_of_the_lineage_is_taken(agent: Agent, names: Sequence[str]) -> None:
    write(agent, failed_run(error="the older one"), names[1], age=7200)
    assert "the older one" in told(agent)
    write(agent, failed_run(error="the newer one"), names[0], age=3600)
    write(agent, failed_run(OTHER), "letsencrypt.log.0")
    assert "the newer one" in told(agent)
    assert "the older one" not in told(agent)


def test_failure_from_before_the_certificate_is_not_why(agent: Agent) -> None:
    old = failed_run(at=time.time() - 81 * 86400)
    write(agent, old)
    assert told(agent) == ""
    write(agent, old, age=81 * 86400)
    assert told(agent) == ""
    write(agent, failed_run(at=time.time() - 79 * 86400))
    assert "Failed to renew" in told(agent)


@pytest.mark.parametrize("zone", ["UTC+11", "UTC-11"])
def test_clock_of_the_log_may_be_local_or_utc(
    agent: Agent, zone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """certbot wrote UTC once; a try within the hour after the certificate is later than it by either clock."""
    pem = agent.letsencrypt / "live" / NAME / "cert.pem"
    os.utime(pem, (time.time() - 3600, time.time() - 3600))
    agent.env["TZ"] = zone
    for written_in in ("UTC", zone):
        with monkeypatch.context() as patched:
            patched.setenv("TZ", written_in)
            time.tzset()
            log = failed_run()
        time.tzset()
        write(agent, log)
        assert "Failed to renew" in told(agent), written_in


def test_long_log_is_cut_to_its_end(agent: Agent) -> None:
    log = Log().begin().processing(NAME)
    for number in range(9000):
        log.say("certbot._internal.plugins", f"a line of many {number}")
    write(agent, log.failed(NAME).end("All renewals failed."))
    text = told(agent)
    assert MOST - 100 < len(text) <= MOST
    assert "Failed to renew certificate a.test" in text


def test_huge_logs_are_searched_in_bounded_time(agent: Agent) -> None:
    noise = "".join(Log().begin().processing(f"n{number}.test").asking().text for number in range(200))
    assert len(noise) * 20 > 2 << 20
    for number in range(30):
        write(agent, noise * 20, f"letsencrypt.log.{number}", age=number)
    before = os.times()
    assert told(agent) == ""
    after = os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    assert spent < 6  # 20 logs of 2 MiB are more than any server of certbot's own rotation has


def test_twenty_logs_are_searched_newest_first(agent: Agent) -> None:
    for number in range(19):
        write(agent, failed_run(OTHER), f"letsencrypt.log.{number}", age=number)
    write(agent, failed_run(), "letsencrypt.log.19", age=19)
    assert "Failed to renew" in told(agent)
    write(agent, failed_run(OTHER), "letsencrypt.log")
    assert told(agent) == ""


def test_folder_that_cli_ini_names_is_searched(agent: Agent, tmp_path: Path) -> None:
    other = tmp_path / "other logs"
    other.mkdir()
    (agent.letsencrypt / "cli.ini").write_text(f"max-log-backups = 0\nlogs-dir = {other}\n")
    write(agent, failed_run(error="of the usual folder"))
    (other / "letsencrypt.log").write_text(failed_run(error="of the other folder").text)
    assert "of the other folder" in told(agent)


def test_server_without_logs_or_certificate_says_nothing(agent: Agent) -> None:
    assert told(agent) == ""
    assert told(agent, "none.test") == ""


@pytest.mark.parametrize("name", [f"x{NAME}", f"{NAME}.example", f"{NAME}-0001"])
def test_a_name_within_another_is_not_the_name(agent: Agent, name: str) -> None:
    for log in (failed_run(name), Log().begin().failed(name).end()):
        write(agent, log)
        assert told(agent) == ""


@pytest.mark.parametrize(
    "word", ["failure=", "failure=../x", "failure=-x.test", "failure=a b.test", "fail=a.test"]
)
def test_word_that_is_no_lineage_is_refused(agent: Agent, word: str) -> None:
    answer = agent.run("inspect", NAME, word)
    assert answer.result == "USAGE"
    assert word not in answer.text


def test_log_cannot_forge_the_answer(agent: Agent) -> None:
    log = Log().begin().processing(NAME)
    log.failed(NAME, "x\nend failed_renewal\nresult=STALE\nagent=9")
    write(agent, log)
    answer = ask(agent)
    assert answer.values("result") == ["OK"]
    assert "result=STALE" in (answer.section("failed_renewal") or "")
