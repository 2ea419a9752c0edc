"""Whether a server renews its certificates by itself: certbot's timers and cron jobs, as its script shows them.

The text is `systemctl show` of the timers that distributions, snap, Fedora and certpilot bring, and of their services,
followed by the lines of crontabs that name certbot (`timers` in workers/edges/server/certpilot-agent.sh).
"""

import re
from collections.abc import Iterator, Mapping

from contracts.codes import Code
from workers.core.preflight.model import CheckResult, Observations
from workers.core.preflight.server import failed, passed, unsure

_CHECK = "renewal"
_PROPERTY = re.compile(r"([A-Z][A-Za-z]*)=(.*)")
# Debian's /etc/cron.d/certbot leaves the work to the timer wherever systemd runs (FACTS-certbot 4.1).
_ONLY_WITHOUT_SYSTEMD = re.compile(r"!\s+-d\s+/run/systemd/system")
_RENEWS = re.compile(r"certbot\b.*\brenew\b")


def check_auto_renew(o: Observations) -> CheckResult:
    """A timer or a cron job of certbot's is switched on, and its last run did not fail."""
    units = list(_units(o.facts.timers))
    service = next((unit for unit in units if _has_failed(unit)), None)
    if service is not None:
        status = service.get("ExecMainStatus", "")
        message = f"The last run of {service['Id']} failed ({service['Result']}, exit status {status}). Run certbot renew --dry-run there to see why."
        return failed(_CHECK, Code.AUTO_RENEW_FAILING, message)
    running = [
        unit for unit in units if unit["Id"].endswith(".timer") and unit.get("ActiveState") == "active"
    ]
    if running:
        return _of_timer(running)
    jobs = [line for line in _cron_lines(o.facts.timers) if _works(line, systemd=o.facts.systemd)]
    if jobs:
        return passed(_CHECK, f"A cron job renews ({jobs[0].partition(':')[0]}).")
    if o.facts.systemd is None and not o.facts.timers:
        return unsure(_CHECK, "The server did not say whether anything renews its certificates.")
    asleep = next((unit for unit in units if _is_asleep(unit)), None)
    found = "Nothing on the server renews its certificates"
    if asleep is not None:
        found += f": {asleep['Id']} is {asleep.get('ActiveState', 'off')} ({asleep.get('UnitFileState', '')})"
    return failed(
        _CHECK,
        Code.AUTO_RENEW_MISSING,
        f"{found}. Turn on certbot's timer: systemctl enable --now certbot.timer.",
    )


def _of_timer(running: list[Mapping[str, str]]) -> CheckResult:
    lasting = next(
        (unit for unit in running if unit.get("UnitFileState") in ("enabled", "static", "generated")), None
    )
    if lasting is not None:
        when = lasting.get("NextElapseUSecRealtime", "")
        return passed(_CHECK, f"{lasting['Id']} is on" + (f", next {when}." if when else "."))
    name = running[0]["Id"]
    return unsure(
        _CHECK, f"{name} is on, but not enabled: after a reboot nothing renews. Run systemctl enable {name}."
    )


def _has_failed(unit: Mapping[str, str]) -> bool:
    return unit["Id"].endswith(".service") and unit.get("Result", "success") != "success"


def _is_asleep(unit: Mapping[str, str]) -> bool:
    return unit["Id"].endswith(".timer") and unit.get("LoadState") not in ("not-found", None)


def _units(text: str) -> Iterator[Mapping[str, str]]:
    """The blocks of `systemctl show`; each has its `Id`."""
    unit: dict[str, str] = {}
    for line in [*text.split("\n"), ""]:
        match = _PROPERTY.fullmatch(line)
        if match is None:
            if "Id" in unit:
                yield unit
            unit = {}
        else:
            unit[match[1]] = match[2]


def _cron_lines(text: str) -> Iterator[str]:
    """The lines of crontabs; grep puts the file before each."""
    for line in text.split("\n"):
        if _RENEWS.search(line) and not _PROPERTY.fullmatch(line):
            yield line.strip()


def _works(line: str, *, systemd: bool | None) -> bool:
    return not (systemd and _ONLY_WITHOUT_SYSTEMD.search(line))
