"""The script's `renewal`: the server renews by itself afterwards, whatever it has of systemd and cron, and nginx shows it."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.integration.test_agent_run import HOSTILE
from tests.support.agent import Agent, Answer

DEBIAN = (
    "SHELL=/bin/sh\nPATH=/usr/sbin:/usr/bin:/sbin:/bin\n# certbot renew\n"
    "0 */12 * * * root test -x /usr/bin/certbot -a \\! -d /run/systemd/system && perl -e 'sleep int(rand(43200))'"
    " && certbot -q renew --no-random-sleep-on-renew\n"
)
CONF = "# renew_before_expiry = 30 days\nversion = 2.1.0\ncert = /x/cert.pem\n[renewalparams]\nserver = https://ca.test\n"
SYSTEMCTL = """
units={units}
case "$1 $2" in
  "-q is-active") [ -e "$units/$3.active" ] ;;
  "-q is-enabled") [ -e "$units/$3.enabled" ] ;;
  "cat $2") [ -e "$units/$2" ] || [ -e "{root}/etc/systemd/system/$2" ] ;;
  "-q enable") [ ! -e "$units/$4.masked" ] && : >"$units/$4.enabled" && : >"$units/$4.active" ;;
  "daemon-reload ") : ;;
  *) exit 9 ;;
esac
"""


class Server(Agent):
    """A home of the agent's below a root with nothing that renews; a cron daemon runs."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.root = folder / "root"
        self.env["CERTPILOT_ROOT"] = str(self.root)
        self.cron_d = self.root / "etc/cron.d"
        self.cron_d.mkdir(parents=True)
        self.stub("pgrep", "exit 0\n")
        self.conf = self.letsencrypt / "renewal/a.test.conf"
        self.conf.parent.mkdir(parents=True)
        self.conf.write_text(CONF)
        self.hook = self.letsencrypt / "renewal-hooks/deploy/certpilot-reload-nginx"
        self.units = folder / "units"

    def systemd(self, *marks: str) -> None:
        """Let systemd run here, with these units and states (`NAME`, `NAME.enabled`, `NAME.active`, `NAME.masked`)."""
        (self.root / "run/systemd/system").mkdir(parents=True)
        (self.root / "etc/systemd/system").mkdir(parents=True)
        self.units.mkdir()
        for mark in marks:
            (self.units / mark).touch()
        self.stub("systemctl", SYSTEMCTL.format(units=self.units, root=self.root))

    def renewal(self, *words: str) -> Answer:
        answer = self.run("renewal", 1, "j", 0, "a.test", *words)
        assert (answer.result, answer.stderr) == ("OK", "")
        return answer

    def written(self) -> dict[str, tuple[int, str]]:
        """All files but the agent's own, by inode and text: what a second run must not touch."""
        folders = (self.root, self.letsencrypt)
        return {
            str(f): (f.stat().st_ino, f.read_text())
            for folder in folders
            for f in folder.rglob("*")
            if f.is_file()
        }


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return Server(tmp_path)


# --- cron -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("etc/cron.d/certbot", DEBIAN),
        ("etc/crontab", "17 3 * * * root /opt/certbot/bin/certbot renew -q\n"),
        ("etc/cron.daily/renew", "#!/bin/sh\ncertbot renew --quiet\n"),
        ("var/spool/cron/crontabs/root", "17 3 * * * certbot renew -q # mine\n"),
        ("var/spool/cron/root", "17 3 * * * certbot renew -q\n"),
    ],
)
def test_crontab_that_renews_is_found_and_nothing_is_installed(server: Server, place: str, text: str) -> None:
    file = server.root / place
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    answer = server.renewal()
    assert (answer["did"], answer["renews"], answer["cron"]) == ("found", str(file), None)
    assert list(server.cron_d.iterdir()) == ([file] if file.parent == server.cron_d else [])


def test_where_nothing_renews_a_crontab_is_installed_once(server: Server) -> None:
    (server.root / "etc/crontab").write_text(
        "# 1 1 * * * root certbot renew\n2 2 * * * root certbot certificates\n"
    )
    own = server.cron_d / "certpilot-renew"
    answer = server.renewal()
    assert (answer["did"], answer["renews"]) == ("installed", str(own))
    minute, hours, *rest = own.read_text().splitlines()[-1].split(" ", 6)
    assert 0 <= int(minute) < 60
    first, second = map(int, hours.split(","))
    assert (0 <= first < 12, second - first) == (True, 12)
    assert rest == ["*", "*", "*", "root", f"{server.bin}/certbot -q renew --no-random-sleep-on-renew"]
    assert own.stat().st_mode & 0o777 == 0o644  # cron takes no file that others may write to

    before = server.written()
    assert server.renewal()["did"] == "found"
    assert server.written() == before


def test_missing_cron_is_said(server: Server) -> None:
    server.stub("pgrep", "exit 1\n")
    assert server.renewal()["cron"] == "off"
    (server.cron_d / "certpilot-renew").unlink()
    server.cron_d.rmdir()
    assert server.renewal()["did"] == "none"


# --- systemd --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", ["certbot.timer", "snap.certbot.renew.timer", "certbot-renew.timer"])
def test_timer_that_is_on_is_found(server: Server, unit: str) -> None:
    server.systemd(unit, f"{unit}.enabled", f"{unit}.active")
    before = server.written()
    answer = server.renewal()
    assert (answer["did"], answer["renews"]) == ("found", unit)
    assert server.written().keys() - before.keys() == {str(server.hook)}


@pytest.mark.parametrize("state", [(), ("certbot.timer.active",), ("certbot.timer.enabled",)])
def test_timer_that_is_not_both_on_and_lasting_is_turned_on(server: Server, state: tuple[str, ...]) -> None:
    """Debian's crontab leaves the work to the timer wherever systemd runs, whether or not it is on."""
    (server.cron_d / "certbot").write_text(DEBIAN)
    server.systemd("certbot.timer", *state)
    answer = server.renewal()
    assert (answer["did"], answer["renews"]) == ("enabled", "certbot.timer")
    assert {f.name for f in server.units.iterdir()} == {
        "certbot.timer",
        "certbot.timer.enabled",
        "certbot.timer.active",
    }
    assert server.renewal()["did"] == "found"


def test_crontab_of_the_owner_counts_under_systemd_too(server: Server) -> None:
    server.systemd()
    (server.root / "etc/crontab").write_text("17 3 * * * root certbot renew -q\n")
    answer = server.renewal()
    assert (answer["did"], answer["renews"]) == ("found", str(server.root / "etc/crontab"))


@pytest.mark.parametrize("marks", [(), ("certbot.timer", "certbot.timer.masked")])
def test_where_no_timer_can_be_turned_on_one_is_installed_once(
    server: Server, marks: tuple[str, ...]
) -> None:
    server.systemd(*marks)
    answer = server.renewal()
    assert (answer["did"], answer["renews"]) == ("installed", "certpilot-renew.timer")
    units = server.root / "etc/systemd/system"
    service, timer = (units / f"certpilot-renew.{kind}" for kind in ("service", "timer"))
    assert f"\nExecStart={server.bin}/certbot -q renew --no-random-sleep-on-renew\n" in service.read_text()
    assert "\nRandomizedDelaySec=12h\n" in timer.read_text()
    assert {service.stat().st_mode & 0o777, timer.stat().st_mode & 0o777} == {0o644}
    before = server.written()
    assert server.renewal()["did"] == "found"
    assert server.written() == before


def test_unit_that_a_death_left_half_written_is_written_anew(server: Server) -> None:
    server.systemd()
    timer = server.root / "etc/systemd/system/certpilot-renew.timer"
    timer.write_text("[Unit]\n")
    assert server.renewal()["did"] == "installed"
    assert "OnCalendar" in timer.read_text()


def test_systemd_that_enables_nothing_is_said(server: Server) -> None:
    server.systemd("certbot.timer", "certbot.timer.masked", "certpilot-renew.timer.masked")
    assert server.renewal()["did"] == "none"


# --- nginx shows what was renewed -------------------------------------------------------------------------------------


def test_nginx_is_reloaded_after_a_renewal_unless_it_would_refuse(server: Server) -> None:
    server.renewal()
    assert server.hook.stat().st_mode & 0o111 == 0o111
    for exit_code, calls in ((0, ["-t -q", "-s reload"]), (1, ["-t -q"])):
        server.stub("nginx", f'echo "$*" >>{server.log}; [ "$1" != -t ] || exit {exit_code}\n')
        subprocess.run([server.hook], env={"PATH": str(server.bin)}, check=False, timeout=20)
        assert server.log_lines() == calls
        server.log.unlink()


def test_hook_finds_nginx_where_cron_does_not_look(server: Server) -> None:
    """A crontab's PATH is /usr/bin:/bin, and nginx lies in /usr/sbin."""
    server.renewal()
    (line,) = re.findall("^PATH=.*$", server.hook.read_text(), re.MULTILINE)
    shown = subprocess.run(
        ["sh", "-c", f"{line}; echo $PATH"], env={"PATH": "/usr/bin"}, capture_output=True, text=True, check=True
    )  # fmt: skip
    assert "/usr/sbin" in shown.stdout.strip().split(":")


# --- when this lineage is renewed ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "value"), [("15-days", "15 days"), ("80-hours", "80 hours"), ("90-seconds", "90 seconds")]
)
def test_short_certificate_gets_a_time_of_its_own(server: Server, word: str, value: str) -> None:
    server.conf.chmod(0o640)
    server.renewal(f"before={word}")
    assert server.conf.read_text() == CONF.replace(
        "# renew_before_expiry = 30 days", f"renew_before_expiry = {value}"
    )
    assert server.conf.stat().st_mode & 0o777 == 0o640
    before = server.written()
    server.renewal(f"before={word}")
    assert server.written() == before


def test_time_stands_before_the_first_section(server: Server) -> None:
    """Below [renewalparams] certbot would take it for an option."""
    server.conf.write_text(CONF.split("\n", 1)[1])
    server.renewal("before=15-days")
    assert server.conf.read_text().index("renew_before_expiry = 15 days\n") < server.conf.read_text().index(
        "["
    )


@pytest.mark.parametrize(
    ("value", "stays"),
    [("15 days", False), ("80 hours", False), ("90 seconds", False), ("30 days", True), ("40 days", True), ("2 months", True)],
)  # fmt: skip
def test_time_of_a_short_certificate_does_not_outlive_it(server: Server, value: str, *, stays: bool) -> None:
    """Renewed three days before its end, a 90-day certificate would leave nobody time to act."""
    server.conf.write_text(f"renew_before_expiry = {value}\n{CONF}")
    server.renewal()
    assert (f"\nrenew_before_expiry = {value}" in "\n" + server.conf.read_text()) is stays
    assert server.conf.read_text().endswith(CONF)


def test_lineage_without_a_renewal_file_gets_none(server: Server) -> None:
    server.conf.unlink()
    server.renewal("before=15-days")
    assert list(server.conf.parent.iterdir()) == []


# --- hostile words --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", HOSTILE)
def test_hostile_words_of_renewal_change_nothing(server: Server, value: str) -> None:
    before = server.written()
    for command in (
        ["renewal", 1, "j", 0, value],
        ["renewal", 1, "j", value, "a.test"],
        ["renewal", 1, "j", 0, "a.test", value],
        ["renewal", 1, "j", 0, "a.test", f"before={value}"],
        ["renewal", 1, "j", 0, "a.test", f"before={value}-days"],
        ["renewal", 1, "j", 0, "a.test", f"before=1{value}-days"],
        ["renewal", 1, "j", 0],
    ):
        if command[-1] == "before=1-days":
            continue  # of the empty value: a good word
        answer = server.run(*command)
        assert (answer.result, answer.exit_code, answer.stderr) == ("USAGE", 2, ""), command
    assert server.written() == before
