"""The preflight's checks of the server itself: what its admin has to mend."""

import re
from collections.abc import Sequence

from contracts.codes import Code
from workers.core.nginx.config import has_name, match_server
from workers.core.preflight.model import CheckResult, Observations, Verdict
from workers.core.preflight.reach import judge_addresses
from workers.core.preflight.server_facts import Part

MIN_FREE_KB = 100 * 1024
MIN_FREE_INODES = 50
MIN_MEMORY_KB = 50 * 1024
"""certbot itself takes about this much; swap may make up for it, so that less is only worth a word."""

_FIRST_WITH_PROFILES = 4
MIN_CERTBOT = (1, 7)
"""`--nginx-sleep-seconds` came with 1.7.0 (certbot's changelog); an older one ends with a usage error."""

MAX_SKEW_SECONDS = 60
DOUBTFUL_SKEW_SECONDS = 10
CONFIG_LIMIT_BYTES = 4 * 1024 * 1024
"""The server's script cuts the configuration here (workers/edges/server/certpilot-agent.sh, CONFIG_BYTES)."""

_VERSION = re.compile(r"(\d{1,9})\.(\d{1,9})[\w.]*")
_PLACES = {"etc": "/etc/letsencrypt", "var": "/var/lib", "log": "/var/log"}
_HTTP, _HTTPS = 80, 443
_TIMED_OUT = 124
"""Exit code of timeout(1) around `nginx -T`."""

_ERRNO_CODES = (
    ("(28:", Code.DISK_FULL, "Free space there"),
    ("(30:", Code.FILESYSTEM_UNUSABLE, "Mount it for writing; look at dmesg"),
    ("(12:", Code.OUT_OF_MEMORY, "Free memory or add swap"),
    (
        "(24:",
        Code.NGINX_RELOAD_FAILED,
        "Raise nginx's limit of open files (worker_rlimit_nofile, LimitNOFILE)",
    ),
)
"""errno as nginx prints it: the configuration is not to blame."""


def passed(check: str, message: str) -> CheckResult:
    """A check that found nothing wrong."""
    return CheckResult(check, Verdict.PASS, None, (), message)


def unsure(check: str, message: str, names: tuple[str, ...] = ()) -> CheckResult:
    """A check that could not tell, or saw something that need not matter."""
    return CheckResult(check, Verdict.UNSURE, None, names, message)


def failed(check: str, code: Code, message: str, names: tuple[str, ...] = ()) -> CheckResult:
    """A check that found what would make the order fail."""
    return CheckResult(check, Verdict.FAIL, code, names, message)


def check_permission(o: Observations) -> CheckResult:
    """The script runs as root."""
    if o.facts.user_id is None:
        return unsure("permission", "The server did not say as whom its script runs.")
    if o.facts.user_id == 0:
        return passed("permission", "The script runs as root.")
    return failed(
        "permission",
        Code.PERMISSION_DENIED,
        f"The script runs as user {o.facts.user_id}, not as root. Install the sudo rule of deploy/customer-server, or connect as root.",
    )


def check_certbot(o: Observations) -> CheckResult:
    """Certbot is there, starts, and knows the options that are used."""
    path, version = o.facts.certbot_path, o.facts.certbot_version or ""
    if path is None:
        return unsure("certbot", "The server did not say whether it has certbot.")
    if not path:
        message = "certbot is not on the server. Install it: apt-get install certbot python3-certbot-nginx."
        return failed("certbot", Code.CERTBOT_MISSING, message)
    if "Traceback" in version or "Error" in version:
        message = f"{path} crashes when it starts ({version[:120]}). Reinstall certbot from one source only."
        return failed("certbot", Code.CERTBOT_BROKEN, message)
    numbers = _VERSION.search(version)
    if numbers is None:
        return unsure("certbot", f"{path} did not say its version.")
    if (int(numbers[1]), int(numbers[2])) < MIN_CERTBOT:
        message = f"certbot {numbers[0]} at {path} is too old. Upgrade it to the version of a supported distribution (1.7 or later)."
        return failed("certbot", Code.CERTBOT_OUTDATED, message)
    return passed("certbot", f"certbot {numbers[0]} at {path}.")


def knows_profiles(certbot_version: str | None) -> bool:
    """Whether certbot has `--preferred-profile` (4.0 and later); one that does not say its version is not tried."""
    numbers = _VERSION.search(certbot_version or "")
    return numbers is not None and int(numbers[1]) >= _FIRST_WITH_PROFILES


def check_certbot_plugin(o: Observations) -> CheckResult:
    """Certbot has its nginx plugin."""
    plugins = o.facts.certbot_plugins
    if not o.facts.certbot_path or plugins is None or "unknown" in plugins:
        return unsure("certbot plugin", "It could not be told whether certbot has its nginx plugin.")
    if "nginx" in plugins:
        return passed("certbot plugin", "certbot has its nginx plugin.")
    return failed(
        "certbot plugin",
        Code.CERTBOT_PLUGIN_MISSING,
        "certbot's nginx plugin is not installed beside certbot. Install python3-certbot-nginx from the same source as certbot.",
    )


def check_certbot_lock(o: Observations) -> CheckResult:
    """Nobody else's certbot is at work; the run itself waits for it."""
    if o.facts.certbot_busy:
        return unsure("certbot lock", "Another certbot is at work on the server; it is waited for.")
    return passed("certbot lock", "No other certbot is at work.")


def check_nginx(o: Observations) -> CheckResult:
    """Nginx is there."""
    path = o.facts.nginx_path
    if path is None:
        return unsure("nginx", "The server did not say whether it has nginx.")
    if not path:
        return failed(
            "nginx", Code.NGINX_MISSING, "nginx is not on the server. Install it, or put it on root's PATH."
        )
    if o.facts.nginx_running is False:
        return unsure("nginx", f"nginx {o.facts.nginx_version} at {path} is not running.")
    return passed("nginx", f"nginx {o.facts.nginx_version} at {path}.")


def check_nginx_config(o: Observations) -> CheckResult:
    """Nginx accepts its configuration."""
    code = o.facts.nginx_test_exit
    if code == 0:
        return passed("nginx configuration", "nginx accepts its configuration.")
    lines = o.facts.nginx_test.split("\n")
    reason = next(
        (line for sign in ("[emerg]", "[alert]", "[crit]") for line in lines if sign in line), ""
    ).strip()
    if code is None or code == _TIMED_OUT or not reason:
        return unsure("nginx configuration", "nginx did not say whether it accepts its configuration.")
    for errno, other_code, do in _ERRNO_CODES:
        if errno in reason:
            return failed(
                "nginx configuration", other_code, f"nginx cannot test its configuration: {reason}. {do}."
            )
    return failed(
        "nginx configuration",
        Code.NGINX_CONFIG_BROKEN,
        f"nginx refuses its configuration: {reason}. Correct that line and run nginx -t.",
    )


def check_disk(o: Observations) -> CheckResult:
    """There is room for a certificate and for logs."""
    short = [
        f"{_PLACES.get(p, p)} has {kb // 1024} MiB free"
        for p, kb in o.facts.disk_free_kb.items()
        if kb < MIN_FREE_KB
    ]
    short += [
        f"{_PLACES.get(p, p)} has {n} inodes free"
        for p, n in o.facts.inode_free.items()
        if n < MIN_FREE_INODES
    ]
    if short:
        return failed(
            "disk",
            Code.DISK_FULL,
            f"The server's disk is full: {', '.join(short)}. Free at least 100 MiB there.",
        )
    if not o.facts.disk_free_kb:
        return unsure("disk", "The server did not say how much disk is free.")
    return passed("disk", f"{min(o.facts.disk_free_kb.values()) // 1024} MiB free.")


def check_lineage(o: Observations) -> CheckResult:
    """Certbot's files for the certificate are whole, or none is there.

    With a part of them certbot orders, and then cannot save what it got, or saves it as `NAME-0001` where no server
    block looks (certbot #2814).
    """
    name = o.names[0]
    lineage = o.facts.lineages.get(name)
    if lineage is None:
        return unsure("certbot's files", "The server did not say what certbot has for the name.")
    parts = {
        f"/etc/letsencrypt/renewal/{name}.conf": lineage.renewal,
        f"/etc/letsencrypt/live/{name}": lineage.live,
        f"/etc/letsencrypt/archive/{name}": lineage.archive,
    }
    if len(set(parts.values())) == 1 and lineage.live is not Part.BROKEN:
        return passed("certbot's files", "certbot's files for the certificate fit together.")
    words = {Part.YES: "is there", Part.NO: "is missing", Part.BROKEN: "is not as certbot makes it"}
    found = ", ".join(f"{path} {words[part]}" for path, part in parts.items())
    message = f"certbot's files for {name} do not fit together: {found}. Restore them, or take the rest away (certbot delete)."
    return failed("certbot's files", Code.LINEAGE_BROKEN, message)


def check_memory(o: Observations) -> CheckResult:
    """There is memory for certbot; too little is only worth a word."""
    free = o.facts.memory_available_kb
    if free is None or free >= MIN_MEMORY_KB:
        return passed(
            "memory",
            "Enough memory." if free is not None else "The server did not say how much memory is free.",
        )
    return unsure("memory", f"Only {free // 1024} MiB of memory are available; certbot needs about 50.")


def check_clock(o: Observations) -> CheckResult:
    """The server's clock is right; the time that the question took is no skew."""
    if o.facts.epoch_ms is None or o.asked_at is None or o.answered_at is None:
        return unsure("clock", "The server did not tell its time.")
    clock = o.facts.epoch_ms / 1000
    skew = max(o.asked_at.timestamp() - clock, clock - o.answered_at.timestamp(), 0.0)
    if skew <= DOUBTFUL_SKEW_SECONDS:
        return passed("clock", "The clock is right.")
    direction = "behind" if clock < o.asked_at.timestamp() else "ahead"
    message = f"The server's clock is {skew:.0f} s {direction}. Turn on time synchronisation (timedatectl set-ntp true)."
    if skew > MAX_SKEW_SECONDS:
        return failed("clock", Code.CLOCK_SKEW, message)
    return unsure("clock", message)


def check_vhost(o: Observations) -> CheckResult:
    """Every name has a server block."""
    config = o.facts.nginx_config
    found = {name: has_name(o.nginx, name) for name in o.names}
    missing = tuple(name for name, has in found.items() if has is False)
    # What was cut or could not be read may hold the name.
    size = len(config.encode("utf-8", "replace"))
    readable = 0 < size < CONFIG_LIMIT_BYTES - 1 and not o.nginx.problems
    if missing and o.facts.nginx_test_exit == 0 and readable:
        what = f"No server block of nginx has the name {listed(missing)}"
        message = f"{what}. Add it to the server_name of the site's block and reload nginx."
        return failed("server block", Code.NO_MATCHING_VHOST, message, missing)
    if not all(found.values()):
        names = tuple(name for name, has in found.items() if not has)
        return unsure("server block", f"It could not be told which server block has {listed(names)}.", names)
    return passed("server block", "Every name has a server block.")


def check_config_readable(o: Observations) -> CheckResult:
    """Certbot reads the files that matter: it passes over what is no UTF-8, and then finds no server block."""
    blocks = [
        match_server(o.nginx, name, port, ssl=port == _HTTPS) for name in o.names for port in (_HTTP, _HTTPS)
    ]
    needed = {o.nginx.main, *(block.file for block in blocks if block is not None)}
    unreadable = [file for file in o.nginx.not_utf8 if file in needed]
    if unreadable:
        where = listed(unreadable)
        message = f"certbot cannot read {where}: it holds characters that are no UTF-8, perhaps in a comment. Save it as UTF-8."
        return failed("readable configuration", Code.NGINX_CONFIG_UNREADABLE, message)
    return passed("readable configuration", "certbot can read the files of the server blocks.")


def check_port_80_owner(o: Observations) -> CheckResult:
    """Port 80 of the server is nginx's; another program in front of it is fine as long as the file comes through."""
    listeners = o.facts.port80_listeners
    if listeners is None:
        return unsure("port 80 owner", "The server did not say which program listens on port 80.")
    if not listeners or "nginx" in listeners:
        return passed(
            "port 80 owner",
            "Port 80 is nginx's." if listeners else "Port 80 is not taken by another program.",
        )
    who = ", ".join(listeners)
    hurt = any(reach.code in {Code.PORT_80_BLOCKED, Code.CHALLENGE_FAILED} for reach in judge_addresses(o))
    if o.facts.nginx_running is False or hurt:
        message = f"Port 80 of the server is held by {who}, not by nginx. Stop it or move it to another port, then start nginx."
        return failed("port 80 owner", Code.PORT_80_IN_USE, message)
    if any(probe.matches for probe in o.probes):
        return passed("port 80 owner", f"{who} listens on port 80 and passes requests on.")
    return unsure("port 80 owner", f"{who} listens on port 80 in front of nginx.")


def listed(names: Sequence[str]) -> str:
    """The first few of many names, as text."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")  # noqa: PLR2004
