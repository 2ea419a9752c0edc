"""What a server's timers and cron jobs say of its own renewal."""

import pytest

from contracts.codes import Code
from workers.core.lifetime.auto_renew import check_auto_renew
from workers.core.nginx.config import parse_nginx_config
from workers.core.preflight.model import CheckResult, Observations, Verdict
from workers.core.preflight.server_facts import ServerFacts


def unit(name: str, load: str = "loaded", file: str = "enabled", active: str = "active", **more: str) -> str:
    fields = {"Id": name, "LoadState": load, "UnitFileState": file, "ActiveState": active} | more
    return "\n".join(f"{key}={value}" for key, value in fields.items()) + "\n"


TIMER = unit("certbot.timer", NextElapseUSecRealtime="Wed 2026-11-25 12:00:00 UTC")
NO_TIMERS = "\n".join(
    unit(name, "not-found", "", "inactive") for name in ("certbot-renew.timer", "snap.certbot.renew.timer")
)
SERVICE = unit("certbot.service", file="static", active="inactive", Result="success", ExecMainStatus="0")
DEBIAN_CRON = (
    "/etc/cron.d/certbot:0 */12 * * * root test -x /usr/bin/certbot -a \\! -d /run/systemd/system && perl -e"
    " 'sleep int(rand(43200))' && certbot -q renew --no-random-sleep-on-renew"
)
OWN_CRON = "/var/spool/cron/crontabs/root:17 3 * * * certbot renew -q"


def check(timers: str, *, systemd: bool | None = True) -> CheckResult:
    facts = ServerFacts(timers=timers, systemd=systemd)
    return check_auto_renew(Observations(names=(), facts=facts, nginx=parse_nginx_config(""), dns={}))


@pytest.mark.parametrize(
    ("timers", "systemd", "verdict", "code", "message"),
    [
        pytest.param(
            f"{TIMER}\n{NO_TIMERS}\n{SERVICE}\n{DEBIAN_CRON}", True, Verdict.PASS, None,
            "certbot.timer is on, next Wed 2026-11-25 12:00:00 UTC.", id="Debian with systemd",
        ),
        pytest.param(
            f"{unit('certbot.timer', 'not-found', '', 'inactive')}\n{unit('snap.certbot.renew.timer')}", True,
            Verdict.PASS, None, "snap.certbot.renew.timer is on.", id="snap",
        ),
        pytest.param(
            unit("certbot.timer", file="disabled"), True, Verdict.UNSURE, None,
            "certbot.timer is on, but not enabled", id="until the next reboot only",
        ),
        pytest.param(DEBIAN_CRON, False, Verdict.PASS, None, "A cron job renews (/etc/cron.d/certbot).", id="no systemd"),
        pytest.param(f"{NO_TIMERS}\n{OWN_CRON}", True, Verdict.PASS, None, "A cron job renews (/var/spool/cron/crontabs/root).", id="cron job"),
        pytest.param(
            f"{unit('certbot.timer', file='disabled', active='inactive')}\n{NO_TIMERS}\n{DEBIAN_CRON}", True,
            Verdict.FAIL, Code.AUTO_RENEW_MISSING, "certbot.timer is inactive (disabled). Turn on certbot's timer",
            id="Debian's cron job leaves it to a timer that is off",
        ),
        pytest.param(
            unit("certbot.timer", "masked", "masked", "inactive"), True, Verdict.FAIL, Code.AUTO_RENEW_MISSING,
            "certbot.timer is inactive (masked)", id="masked",
        ),
        pytest.param(NO_TIMERS, True, Verdict.FAIL, Code.AUTO_RENEW_MISSING, "Nothing on the server renews", id="pip"),
        pytest.param("", False, Verdict.FAIL, Code.AUTO_RENEW_MISSING, "Nothing on the server renews", id="nothing"),
        pytest.param("", None, Verdict.UNSURE, None, "The server did not say", id="not told"),
        pytest.param(
            f"{TIMER}\n{unit('certbot.service', active='failed', Result='exit-code', ExecMainStatus='1')}", True,
            Verdict.FAIL, Code.AUTO_RENEW_FAILING, "The last run of certbot.service failed (exit-code, exit status 1)",
            id="last run failed",
        ),
        pytest.param(
            f"{NO_TIMERS}\n{unit('certpilot-renew.timer')}\n{SERVICE}", True, Verdict.PASS, None,
            "certpilot-renew.timer is on.", id="the timer that certpilot installs",
        ),
        pytest.param(
            f"{unit('certpilot-renew.timer')}\n{SERVICE}\n"
            f"{unit('certpilot-renew.service', active='failed', Result='exit-code', ExecMainStatus='1')}", True,
            Verdict.FAIL, Code.AUTO_RENEW_FAILING, "The last run of certpilot-renew.service failed", id="its last run failed",
        ),
        pytest.param("/etc/cron.d/x:1 1 * * * root certbot certificates", False, Verdict.FAIL, Code.AUTO_RENEW_MISSING,
                     "Nothing on the server renews", id="a cron job that does not renew"),
    ],
)  # fmt: skip
def test_server_renews_by_itself_or_says_why_not(  # a row of the table
    timers: str, systemd: bool | None, verdict: Verdict, code: Code | None, message: str
) -> None:
    result = check(timers, systemd=systemd)
    assert (result.check, result.verdict, result.code) == ("renewal", verdict, code)
    assert message in result.message
