"""What a server's own state shows: timers, units, crontabs, links under live/, and what visitors get.

Sources: systemd `systemctl-list-units.c`, `systemctl-show.c`; Debian's certbot package (`certbot.timer`,
`/etc/cron.d/certbot`), snapd's `snap.certbot.renew.timer`, Fedora's `certbot-renew.timer` (FACTS-certbot 4.1); cron;
curl `lib/vtls`, OpenSSL `s_client`, `x509`; FACTS-certbot 2, rows 9 and 25.
"""

import re
from collections.abc import Iterator
from datetime import UTC, datetime

from contracts.codes import Code
from workers.core.reading.lines import Document, Line
from workers.core.reading.segments import Mark
from workers.core.reading.values import Hit, Row, Stage, Table, Weight

_S = Stage

MISSING = Row(
    (), Code.AUTO_RENEW_MISSING, _S.SCHEDULE, "no timer and no cron job of certbot, or not switched on; FACTS-certbot 4.1",
    not_that="no working renewal, whatever certbot said of a scheduled task: it does not look",
)  # fmt: skip
FAILING = Row(
    (), Code.AUTO_RENEW_FAILING, _S.SCHEDULE, "the last run of certbot's unit failed", weight=Weight.CONSEQUENCE,
)  # fmt: skip
LINKS = Row(
    (), Code.LINEAGE_BROKEN, _S.SAVE, "live/ points to an older generation than the newest valid one; FACTS-certbot 2, row 25",
    fix="Point the links of live/ at the newest valid generation, then reload nginx.",
)  # fmt: skip
LOOP = Row((), Code.REDIRECT_LOOP, _S.SERVE, "the same address answers with a redirect again and again")
CLOUDFLARE_LOOP = Row(
    (), Code.CLOUDFLARE_FLEXIBLE_LOOP, _S.SERVE, "the same through Cloudflare: FACTS-certbot 2, row 18"
)

SERVED = Table(
    "visitors' side",
    (),
    (
        Row(
            ("ssl certificate problem: certificate has expired", "no alternative certificate subject name matches", "verify error:num=10:certificate has expired",
             "verify return code: 10 (certificate has expired)", "net::err_cert_date_invalid", "net::err_cert_common_name_invalid",
             "certificate is for a different host", "ssl certificate problem: self signed certificate", "ssl certificate problem: self-signed certificate",
             "kubernetes ingress controller fake certificate", "traefik default cert", "sec_error_expired_certificate", "ssl_error_bad_cert_domain",
             "verify return code: 18 (self", "does not match target host name", "certificate subject name '{}' does not match"),
            Code.NOT_SERVED, _S.SERVE, "curl lib/vtls/openssl.c; OpenSSL s_client; browsers",
            not_that="no failed renewal: what visitors get is another certificate than certbot's file",
        ),
        Row(
            ("err_too_many_redirects", "redirected you too many times", "maximum (50) redirects followed", "redirections exceeded",
             "the page isn't redirecting properly"),
            Code.REDIRECT_LOOP, _S.SERVE, "browsers, curl, wget",
        ),
        Row(
            ("domain does not resolve to this server", "does not point to this server", "not pointing to this server", "is not pointing to your server",
             "points the domain to another machine", "does not resolve to this server", "not resolve to this server", "dns records do not point to",
             "domain is not pointing to", "resolves to a different ip", "points to a different ip", "doesn't point to this server",
             "doesn't resolve to this server", "is pointing to another server", "does not match the server ip", "does not match server ip"),
            Code.DNS_WRONG_SERVER, _S.CHALLENGE, "panels' own checks before they call certbot (mail-in-a-box, HestiaCP, EasyEngine, CyberPanel)",
        ),
        Row(
            ("certbot.service: failed with result", "certbot.service: main process exited", "failed to start certbot", "certbot-renew.service: failed",
             "snap.certbot.renew.service: failed", "failed to start service for snap application certbot", "unit certbot.service entered failed",
             "certbot.service: unit entered failed", "certbot.timer: failed"),
            Code.AUTO_RENEW_FAILING, _S.SCHEDULE, "systemd's words for a run of certbot's unit that failed", weight=Weight.CONSEQUENCE,
        ),
    ),
)  # fmt: skip

_UNIT = re.compile(r"(?:certbot|letsencrypt)[\w.-]*\.(timer|service)")
_TIMER_ROW = re.compile(r"(?:snap\.)?certbot[\w.-]*\.timer|letsencrypt[\w.-]*\.timer")
_CRON_ROW = re.compile(
    r"(?:[\d*/,~-]+\s+){5}.*(?:certbot|letsencrypt)|@(?:daily|weekly|hourly|reboot|monthly)\b.*(?:certbot|letsencrypt)"
)
_PROMPT = re.compile(r"\S{0,60}[$#] ")
_COUNT = re.compile(r"[$#]\s.*(?:systemctl|cron|timers).*grep\s.*(?:certbot|letsencrypt)")
_LINK = re.compile(r"/live/([\w.*-]{1,253})/(?:cert|fullchain)\.pem -> \S*?(?:cert|fullchain)(\d{1,6})\.pem")
_GENERATION = re.compile(r"archive/([\w.*-]{1,253})/cert(\d{1,6})\.pem")
_NOT_AFTER = re.compile(r"notafter=([a-z]{3}) +(\d{1,2}) (\d\d):(\d\d):(\d\d) (\d{4}) gmt")
_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_ACCESS = re.compile(r'^(\S{3,45}) - \S+ \[.{10,40}\] "get (\S{1,300}) http/[\d.]+" 30[1278] ')
_LOCATION = re.compile(r"^(?:< )?location: (https://\S{1,300})")


def state_hits(document: Document) -> Iterator[Hit]:
    """Read timers, units, crontabs, links and answers in circles."""
    lines = document.lines
    if any(word in document.squeezed for word in (".timer", "timerslisted", "crontab", "cron", "systemctl")):
        yield from _timer_table(lines)
        yield from _units(lines)
        yield from _counts(lines)
        yield from _cron(lines)
    if "/live/" in document.squeezed and "archive/" in document.squeezed:
        yield from _links(lines)
    if "301" in document.squeezed or "302" in document.squeezed or "location:" in document.squeezed:
        yield from _circles(document)


def state_marks(document: Document) -> Iterator[tuple[int, Mark]]:
    """Find signs that the server's own renewal is in order."""
    squeezed = document.squeezed
    if "certbot" not in squeezed and "letsencrypt" not in squeezed and "active:" not in squeezed:
        return
    for index, line in enumerate(document.lines):
        if not any(word in line.text for word in ("certbot", "letsencrypt", "active:")):
            continue
        if (
            (_TIMER_ROW.search(line.text) and _is_planned(line.text) and _in_table(document.lines, index))
            or "active: active (waiting)" in line.text
            or (_CRON_ROW.match(line.text) and "renew" in line.text)
            or (
                "active: inactive (dead) since" in line.text
                and _unit_above(document.lines, index) == "service"
            )
        ):
            yield line.start, Mark.FINE


def _hit(row: Row, line: Line, lineage: str | None = None) -> Hit:
    return Hit(row, line.start, line.start + len(line.text.replace(" ", "")), lineage=lineage)


def _is_planned(text: str) -> bool:
    """A timer's row begins with its next time; `n/a` or `-` there means that it is not running."""
    return not text.startswith(("n/a", "- ", "-\t"))


def _in_table(lines: tuple[Line, ...], index: int) -> bool:
    return any("next" in line.text and "left" in line.text for line in lines[max(0, index - 60) : index]) or (
        "certbot" in lines[index].text and lines[index].text.endswith(".service")
    )


def _timer_table(lines: tuple[Line, ...]) -> Iterator[Hit]:
    """`systemctl list-timers`: no row of certbot's, or one without a next time."""
    head = next(
        (
            i
            for i, line in enumerate(lines)
            if "next" in line.text and "left" in line.text and "unit" in line.text
        ),
        None,
    )
    foot = next((i for i, line in enumerate(lines) if re.match(r"\d+ timers? listed", line.text)), None)
    if head is None and foot is None:
        return
    begin = head + 1 if head is not None else 0
    rows = [line for line in lines[begin:foot] if _TIMER_ROW.search(line.text)]
    if not rows:
        yield _hit(MISSING, lines[foot if foot is not None else head or 0])
    for row in rows:
        if not _is_planned(row.text):
            yield _hit(MISSING, row)


def _units(lines: tuple[Line, ...]) -> Iterator[Hit]:
    """`systemctl status`, `is-enabled`, `is-active` of certbot's timer and service."""
    for index, line in enumerate(lines):
        text = line.text
        unit = _UNIT.search(text)
        if (
            unit
            and unit[1] == "timer"
            and re.search(r"could not be found|not found|not loaded|is masked|; masked|no such file", text)
        ):
            yield _hit(MISSING, line)
        elif text.startswith("active:"):
            above = _unit_above(lines, index)
            if (above == "timer" and "inactive" in text) or (above == "timer" and "failed" in text):
                yield _hit(MISSING, line)
            elif above == "service" and "failed" in text:
                yield _hit(FAILING, line)
        elif (
            text in {"disabled", "inactive", "masked", "not-found"}
            and index
            and "certbot" in lines[index - 1].text
        ):
            yield _hit(MISSING, line)


def _unit_above(lines: tuple[Line, ...], index: int) -> str:
    for line in reversed(lines[max(0, index - 6) : index]):
        unit = _UNIT.search(line.text)
        if unit and ("loaded" not in line.text or "status" in line.text):
            return unit[1]
    return ""


def _counts(lines: tuple[Line, ...]) -> Iterator[Hit]:
    """A shell's `… | grep -c certbot` that counts none, as long as no other place has one."""
    counts = [
        (line, lines[index + 1].text) for index, line in enumerate(lines[:-1]) if _COUNT.search(line.text)
    ]
    if counts and all(found == "0" or _PROMPT.match(found) for _, found in counts):
        yield _hit(MISSING, counts[0][0])


def _cron(lines: tuple[Line, ...]) -> Iterator[Hit]:
    for line in lines:
        if re.match(r"no crontab for ", line.text) or re.match(
            r"#\s?(?:[\d*/,-]+\s+){5}.*(?:certbot|letsencrypt).*renew", line.text
        ):
            yield _hit(MISSING, line)


def _links(lines: tuple[Line, ...]) -> Iterator[Hit]:
    """Links of live/ that lead to an expired generation while another one is valid longer."""
    linked = {found[1]: (int(found[2]), line) for line in lines if (found := _LINK.search(line.text))}
    ends: dict[str, dict[int, datetime]] = {}
    at: tuple[str, int] | None = None
    for line in lines:
        generation = _GENERATION.search(line.text)
        if generation and "->" not in line.text:
            at = (generation[1], int(generation[2]))
        end = _NOT_AFTER.search(line.text)
        if end and at and end[1] in _MONTHS:
            month, day = _MONTHS.index(end[1]) + 1, int(end[2])
            ends.setdefault(at[0], {})[at[1]] = datetime(int(end[6]), month, min(day, 28), tzinfo=UTC)
    for name, (number, line) in linked.items():
        known = ends.get(name, {})
        if number in known and max(known.values()) > known[number]:
            yield _hit(LINKS, line, name)


def _circles(document: Document) -> Iterator[Hit]:
    """The same address, answered with a redirect to itself several times: an access log or `curl -IL`."""
    cloudflare = "cloudflare" in document.squeezed
    seen: dict[str, int] = {}
    for line in document.lines:
        access = _ACCESS.match(line.text)
        location = _LOCATION.match(line.text)
        key = f"get {access[2]}" if access else location[1] if location else ""
        if not key or ".well-known" in key:
            continue
        seen[key] = seen.get(key, 0) + 1
        if seen[key] == 3:  # noqa: PLR2004  # http to https and once more can be right; thrice is a circle
            if access and not cloudflare:
                continue  # many visitors may ask for one page: an access log proves a circle only behind a known proxy
            yield _hit(CLOUDFLARE_LOOP if cloudflare else LOOP, line)
