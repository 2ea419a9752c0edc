"""The script's verbs `remove`, `renewal` and `lineages`: guards, words that are refused, and what they write.

certbot, nginx, systemctl and openssl are stand-ins on the script's PATH here; tests/system has the real ones.
"""

from pathlib import Path

import pytest

from tests.support.agent import Agent

NAME = "a.test"
HOSTILE = (
    "", "-n", "--help", "../a.test", "a.test/..", "a.test;id", "a.test$(id)", "a.test`id`", "a b.test", "a.test\nb",
    "*.test", "a", "A.test", ".a.test", "a..test", "a.test|id", "a.test&", "~root.test", "a.test'", 'a.test"', "a" * 300 + ".test",
)  # fmt: skip


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    made = Agent(tmp_path)
    # Never the machine's own: `renewal` would turn its timer on.
    made.stub("systemctl", "exit 0\n")
    made.stub(
        "nginx",
        'case "$*" in *-T*) echo "# configuration file $STANDIN_CONF:"; cat "$STANDIN_CONF" ;; esac\n',
    )
    return made


def lineage(agent: Agent, name: str = NAME) -> Path:
    conf = agent.letsencrypt / "renewal" / f"{name}.conf"
    live = agent.letsencrypt / "live" / name
    for folder in (conf.parent, live, agent.letsencrypt / "archive" / name):
        folder.mkdir(parents=True, exist_ok=True)
    (live / "cert.pem").write_text("PEM\n")
    conf.write_text(
        "# renew_before_expiry = 30 days\nversion = 2.1.0\ncert = x\n\n[renewalparams]\nauthenticator = webroot\n"
    )
    return conf


# --- guards ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["remove", "renewal"])
def test_older_fence_changes_nothing(agent: Agent, verb: str) -> None:
    conf = lineage(agent)
    before = conf.read_text()
    agent.run("look", 6, "j", 0)
    assert agent.run(verb, 5, "j", 0, NAME).result == "STALE"
    assert conf.read_text() == before
    assert agent.starts() == 0


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("verb", ["remove", "renewal"])
def test_name_that_is_no_host_name_is_refused(agent: Agent, verb: str, name: str) -> None:
    assert agent.run(verb, 5, "j", 0, name).result == "USAGE"
    assert agent.starts() == 0


@pytest.mark.parametrize(
    "words",
    [
        ("remove", "revoke=maybe"), ("remove", "revoke=yes;id"), ("remove", "b.test"), ("renewal", "before=30"),
        ("renewal", "before=30-days;id"), ("renewal", "before=-days"), ("renewal", "before=3o-days"),
        ("renewal", "before=30-years"), ("renewal", "hook=/bin/sh"),
    ],
    ids=str,
)  # fmt: skip
def test_word_that_is_not_known_is_refused(agent: Agent, words: tuple[str, str]) -> None:
    verb, word = words
    assert agent.run(verb, 5, "j", 0, NAME, word).result == "USAGE"
    assert agent.starts() == 0


def test_removal_waits_while_a_run_lives(agent: Agent) -> None:
    agent.start(5, seconds=20)
    agent.wait_pid()
    assert agent.run("remove", 5, "other", 0, NAME).result == "BUSY"


# --- remove ---------------------------------------------------------------------------------------------------------


def test_certbot_is_asked_to_revoke_and_then_to_delete(agent: Agent) -> None:
    lineage(agent)
    agent.stub("openssl", "exit 0\n")
    answer = agent.run("remove", 5, "j", 0, NAME, "revoke=yes", conf="/dev/null")
    assert (answer.result, answer["removed"], answer["revoked"], answer["lineage"]) == (
        "OK",
        "yes",
        "yes",
        "removed",
    )
    calls = [line for line in agent.log.read_text().splitlines() if line.startswith("start")]
    assert ['"revoke"' in call for call in calls] == [True, False]
    assert ['"delete"' in call for call in calls] == [False, True]
    assert all(f'"--cert-name", "{NAME}"' in call for call in calls)
    assert not (agent.letsencrypt / "live" / NAME).exists()


def test_expired_certificate_is_not_revoked_but_deleted(agent: Agent) -> None:
    lineage(agent)
    agent.stub("openssl", "exit 1\n")
    answer = agent.run("remove", 5, "j", 0, NAME, "revoke=yes", conf="/dev/null")
    assert (answer["revoked"], answer["lineage"]) == ("expired", "removed")


def test_nothing_there_is_removed_already(agent: Agent) -> None:
    answer = agent.run("remove", 5, "j", 0, NAME, "revoke=yes", conf="/dev/null")
    assert (answer["removed"], answer["revoked"], answer["lineage"]) == ("yes", "no", "none")
    assert agent.starts() == 0


def test_revocation_that_fails_keeps_the_lineage_and_says_what_certbot_said(agent: Agent) -> None:
    conf = lineage(agent)
    agent.stub("openssl", "exit 0\n")
    answer = agent.run(
        "remove", 5, "j", 0, NAME, "revoke=yes", conf="/dev/null", exit=1, stderr="The CA is away.\n"
    )
    assert (answer.result, answer["failed"], answer["removed"]) == ("OK", "revoke", None)
    assert answer.decoded("err") == b"The CA is away.\n"
    assert conf.exists()


def test_what_was_revoked_before_is_no_failure(agent: Agent) -> None:
    lineage(agent)
    agent.stub("openssl", "exit 0\n")
    (agent.bin / "certbot").unlink()
    agent.stub("certbot", 'case $1 in revoke) echo "Certificate already revoked" >&2; exit 1 ;; esac\n')
    answer = agent.run("remove", 5, "j", 0, NAME, "revoke=yes", conf="/dev/null")
    assert (answer["revoked"], answer["removed"]) == ("already", "yes")


def test_configuration_that_stays_broken_without_the_certificate_is_put_back(
    agent: Agent, tmp_path: Path
) -> None:
    lineage(agent)
    conf = tmp_path / "site.conf"
    text = f"server {{\n listen 443 ssl; # managed by Certbot\n ssl_certificate {agent.letsencrypt}/live/{NAME}/fullchain.pem; # managed by Certbot\n}}\n"
    conf.write_text(text)
    # nginx accepts it as it is, and not without the certificate.
    agent.stub(
        "nginx",
        'grep -q ssl_certificate "$STANDIN_CONF" || { echo "[emerg] no certificate" >&2; exit 1; }\n'
        'echo "# configuration file $STANDIN_CONF:"; cat "$STANDIN_CONF"\n',
    )
    answer = agent.run("remove", 5, "j", 0, NAME, conf=str(conf))
    assert (answer["failed"], answer["removed"]) == ("edit", None)
    assert b"no certificate" in answer.decoded("err")
    assert conf.read_text() == text
    assert agent.starts() == 0
    assert (agent.letsencrypt / "live" / NAME).exists()


# --- renewal --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "written"),
    [("before=21-days", "21 days"), ("before=80-hours", "80 hours"), ("before=90-seconds", "90 seconds")],
)
def test_time_before_expiry_is_written_once_and_above_the_sections(
    agent: Agent, word: str, written: str
) -> None:
    conf = lineage(agent)
    for _ in range(2):
        assert agent.run("renewal", 5, "j", 0, NAME, word).result == "OK"
    text = conf.read_text()
    assert text.count("renew_before_expiry") == 1
    assert f"renew_before_expiry = {written}\n" in text.partition("[renewalparams]")[0]
    assert "authenticator = webroot\n" in text


def test_without_a_time_the_renewal_file_is_left_as_it_is(agent: Agent) -> None:
    conf = lineage(agent)
    before = conf.read_text()
    assert agent.run("renewal", 5, "j", 0, NAME).result == "OK"
    assert conf.read_text() == before


def test_reload_hook_is_there_once_and_can_be_run(agent: Agent) -> None:
    lineage(agent)
    hook = agent.letsencrypt / "renewal-hooks/deploy/certpilot-reload-nginx"
    agent.run("renewal", 5, "j", 0, NAME)
    first = hook.stat()
    agent.run("renewal", 6, "j", 0, NAME)
    assert hook.stat().st_ino == first.st_ino  # not written again
    assert hook.stat().st_mode & 0o777 == 0o755
    assert "nginx -s reload" in hook.read_text()


# --- lineages -------------------------------------------------------------------------------------------------------


def test_every_lineage_is_listed_with_its_authenticator_and_certificate(agent: Agent) -> None:
    lineage(agent)
    lineage(agent, "b.test").write_text("authenticator = nginx; id\n")
    (agent.letsencrypt / "renewal" / "README").write_text("x")
    (agent.letsencrypt / "renewal" / "-rf.conf").write_text("authenticator = x\n")
    answer = agent.run("lineages")
    assert answer.values("lineage") == ["a.test webroot", "b.test nginx"]
    assert answer.section("certificate a.test") == "PEM"
    assert answer.result == "OK"
