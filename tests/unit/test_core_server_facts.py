"""The answer of the server's script, read into facts."""

from hypothesis import given
from hypothesis import strategies as st

from workers.core.preflight.server_facts import Account, Lineage, Part, ServerFacts, parse_server_facts

ANSWER = """agent=1
os=Debian GNU/Linux 12 (bookworm)
user_id=0
boot_id=127b90d3-01c0-4e74-bba3-22769abe0a8a
epoch_ms=1795573502220
systemd=no
certbot_busy=yes
disk_free_kb_etc=82874864
disk_free_kb_var=100
inode_free_etc=0
memory_available_kb=23853076
port80_listener=apache2,nginx
port443_listener=none
addresses=192.0.2.2 fd00::2\x20
certbot_path=/usr/bin/certbot
certbot_version=2.1.0
begin certbot_plugins
|nginx
end certbot_plugins
nginx_path=
nginx_version=1.22.1
nginx_test_exit=1
nginx_running=no
begin nginx_test
|nginx: [emerg] unknown directive "x" in /etc/nginx/nginx.conf:3
|user_id=1000
|nginx: configuration file /etc/nginx/nginx.conf test failed
end nginx_test
begin nginx_config
|# configuration file /etc/nginx/nginx.conf:
||a pipe
|
|end nginx_config
end nginx_config
begin accounts
|acme-v02.api.letsencrypt.org/directory/0123abcd https://acme-v02.api.letsencrypt.org/acme/acct/1
|acme-v02.api.letsencrypt.org/directory/4567ef
end accounts
begin certificates
|name=a.example
|-----BEGIN CERTIFICATE-----
|AAAA
|-----END CERTIFICATE-----
end certificates
begin lineages
|a.example yes yes yes
|b.example no broken no
|c.example what else
end lineages
begin timers
|Id=certbot.timer
end timers
begin errors
end errors
result=OK
"""


def test_every_fact_of_the_answer_is_read() -> None:
    facts = parse_server_facts(ANSWER)
    assert facts.complete
    assert facts.os == "Debian GNU/Linux 12 (bookworm)"
    assert facts.user_id == 0
    assert facts.epoch_ms == 1795573502220
    assert (facts.systemd, facts.certbot_busy, facts.nginx_running) == (False, True, False)
    assert dict(facts.disk_free_kb) == {"etc": 82874864, "var": 100}
    assert dict(facts.inode_free) == {"etc": 0}
    assert facts.memory_available_kb == 23853076
    assert dict(facts.lineages) == {
        "a.example": Lineage(Part.YES, Part.YES, Part.YES),
        "b.example": Lineage(Part.NO, Part.BROKEN, Part.NO),
    }
    assert facts.port80_listeners == ("apache2", "nginx")
    assert facts.port443_listeners == ()
    assert facts.addresses == ("192.0.2.2", "fd00::2")
    assert (facts.certbot_path, facts.certbot_version, facts.certbot_plugins) == (
        "/usr/bin/certbot",
        "2.1.0",
        ("nginx",),
    )
    assert (facts.nginx_path, facts.nginx_test_exit) == ("", 1)
    assert (
        facts.nginx_test.split("\n")[0] == 'nginx: [emerg] unknown directive "x" in /etc/nginx/nginx.conf:3'
    )
    assert facts.nginx_config == "# configuration file /etc/nginx/nginx.conf:\n|a pipe\n\nend nginx_config"
    assert facts.accounts == (
        Account(
            "acme-v02.api.letsencrypt.org/directory",
            "0123abcd",
            "https://acme-v02.api.letsencrypt.org/acme/acct/1",
        ),
        Account("acme-v02.api.letsencrypt.org/directory", "4567ef"),
    )
    assert dict(facts.certificates) == {
        "a.example": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    }
    assert facts.timers == "Id=certbot.timer"


def test_failed_renewal_is_told_only_by_a_script_that_was_asked() -> None:
    assert parse_server_facts(ANSWER).failed_renewal == ""
    said = "begin failed_renewal\n|2026-11-25 10:02:47,992:ERROR:x:Failed\n|result=STALE\nend failed_renewal\nresult=OK\n"
    assert parse_server_facts(said).failed_renewal == "2026-11-25 10:02:47,992:ERROR:x:Failed\nresult=STALE"
    cut = said[: said.index("end failed_renewal")]
    assert parse_server_facts(cut).failed_renewal == ""


def test_lines_inside_a_section_are_never_facts() -> None:
    assert parse_server_facts(ANSWER).user_id == 0


def test_what_the_server_did_not_say_is_not_known() -> None:
    assert parse_server_facts("") == ServerFacts()
    assert (
        parse_server_facts("port80_listener=unknown\nnginx_running=maybe\nuser_id=\nepoch_ms=x\n")
        == ServerFacts()
    )


def test_a_cut_answer_counts_as_far_as_it_came_whole() -> None:
    """Half a line is no fact; half a section would show nginx without half of its server blocks."""
    facts = parse_server_facts(ANSWER[: ANSWER.index("nginx: configuration file")])
    assert not facts.complete
    assert facts.certbot_version == "2.1.0"
    assert facts.nginx_test == ""
    before = ANSWER.index("certbot_version=2.1.0") + len("certbot_version=2")
    assert parse_server_facts(ANSWER[:before]).certbot_version is None


@given(st.text())
def test_no_answer_makes_the_reader_raise(text: str) -> None:
    parse_server_facts(text)


@given(st.integers(0, len(ANSWER)))
def test_no_cut_makes_the_reader_raise(end: int) -> None:
    parse_server_facts(ANSWER[:end])
