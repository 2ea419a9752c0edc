"""What visitors get, as shells, browsers and access logs show it: another certificate, a circle, another server.

Sources: curl `lib/vtls`, `tool_operate.c`; OpenSSL `s_client`, `x509`; browsers' error names; wget; nginx's access log;
FACTS-certbot 2, rows 9, 18 and 25.
"""

import re
from collections.abc import Iterator
from datetime import UTC, datetime

from contracts.codes import Code
from workers.core.reading.lines import Document, Line
from workers.core.reading.names import host, unique
from workers.core.reading.values import Hit, Row, Stage, Table

_S = Stage

SERVED = Table(
    "visitors' side",
    (),
    (
        Row(
            ("ssl certificate problem: certificate has expired", "matches target host name '{host}'", "no alternative certificate subject name matches", "verify error:num=10:certificate has expired",
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
    ),
)  # fmt: skip

LINKS = Row(
    (), Code.LINEAGE_BROKEN, _S.SAVE, "live/ points to an older generation than the newest valid one; FACTS-certbot 2, row 25",
    fix="Point the links of live/ at the newest valid generation, then reload nginx.",
)  # fmt: skip
NO_LINKS = Row(
    (), Code.LINEAGE_BROKEN, _S.SAVE, "certbot storage.py: expected … to be a symlink",
    says="live/ holds files where certbot needs links, so it cannot renew.",
    fix="Put the files into archive/ and link to them, or issue the certificate anew.",
)  # fmt: skip
LOOP = Row((), Code.REDIRECT_LOOP, _S.SERVE, "the same address answers with a redirect again and again")
CLOUDFLARE_LOOP = Row(
    (), Code.CLOUDFLARE_FLEXIBLE_LOOP, _S.SERVE, "the same through Cloudflare: FACTS-certbot 2, row 18"
)
OLDER = Row(
    (), Code.NOT_SERVED, _S.SERVE, "the certificate on the wire ends before the one on disk; FACTS-certbot 2, row 9",
    says="Visitors get an older certificate than the one on disk.", fix="Reload nginx, and see which server block answers.",
)  # fmt: skip

_LINK = re.compile(
    r"(?:^|[/ ])(?:cert|fullchain)\.pem -> \S{0,200}?archive/([\w.*-]{1,253})/(?:cert|fullchain)(\d{1,6})\.pem"
)
_NO_LINK = re.compile(r"-r[w-]\S{7,9} .{0,200}\b(?:cert|chain|fullchain|privkey)\.pem$")
_LIVE_FOLDER = re.compile(r"/live/([\w.*-]{1,253})/?(?=[:\s]|$|(?:cert|chain|fullchain|privkey)\.pem)")
_GENERATION = re.compile(r"archive/([\w.*-]{1,253})/cert(\d{1,6})\.pem")
_NOT_AFTER = re.compile(
    r"(?:not ?after ?[=:] ?|expire date: )([a-z]{3}) +(\d{1,2}) (\d\d):(\d\d):(\d\d) (\d{4}) gmt"
)
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_ACCESS = re.compile(r'^(\S{3,45}) - \S+ \[.{10,40}\] "get (\S{1,300}) http/[\d.]+" 30[1278] ')
_LOCATION = re.compile(r"^(?:< )?location: (https://\S{1,300})")
_ON_WIRE = re.compile(
    r"(?:s_client.{0,200}-connect |s_client.{0,200}-servername |curl .{0,100}https://)([\w.-]{1,253})"
)
_EXPIRES = re.compile(r"^expiry date: (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\+\d\d:\d\d) \(valid")
_DOMAINS = re.compile(r"^(?:domains|identifiers): (.{3,2000})")
_ON_DISK = re.compile(r"x509.{0,200}-in \S*/(?:live|archive)/|openssl x509 .{0,200}\.pem")
_A_CIRCLE = 3
"""http to https and once more can be right; a third time is a circle."""


def served_hits(document: Document) -> Iterator[Hit]:
    """Read links, the dates of certificates, and answers in circles."""
    squeezed = document.squeezed
    if "notafter" in squeezed or "expiredate:" in squeezed:
        yield from _links(document.lines)
        yield from _older_on_wire(document.lines)
    if "/live/" in squeezed and "-rw" in squeezed:
        yield from _no_links(document.lines)
    if '"get/' in squeezed or "location:https" in squeezed:
        yield from _circles(document)


def _hit(row: Row, line: Line, *, lineage: str | None = None, names: tuple[str, ...] = ()) -> Hit:
    return Hit(row, line.start, line.start + len(line.text.replace(" ", "")), lineage=lineage, names=names)


def _date(text: str) -> datetime | None:
    found = _NOT_AFTER.search(text)
    if not found or found[1] not in _MONTHS:
        return None
    day, hour, minute, second, year = (int(found[place]) for place in (2, 3, 4, 5, 6))
    try:
        return datetime(year, _MONTHS.index(found[1]) + 1, day, hour, minute, second, tzinfo=UTC)
    except ValueError:
        return None


def _links(lines: tuple[Line, ...]) -> Iterator[Hit]:
    """Links of live/ that lead to an expired generation while another one is valid longer."""
    linked = {found[1]: (int(found[2]), line) for line in lines if (found := _LINK.search(line.text))}
    ends: dict[str, dict[int, datetime]] = {}
    at: tuple[str, int] | None = None
    for line in lines:
        generation = _GENERATION.search(line.text)
        if generation and "->" not in line.text:
            at = (generation[1], int(generation[2]))
        end = _date(line.text)
        if end and at:
            ends.setdefault(at[0], {})[at[1]] = end
    for name, (number, line) in linked.items():
        known = ends.get(name, {})
        if number in known and max(known.values()) > known[number]:
            yield _hit(LINKS, line, lineage=name)


def _no_links(lines: tuple[Line, ...]) -> Iterator[Hit]:
    """`ls -l` of a folder of live/ that shows plain files."""
    folder = ""
    for line in lines:
        named = _LIVE_FOLDER.search(line.text)
        folder = named[1] if named else folder
        if folder and _NO_LINK.match(line.text):
            yield _hit(NO_LINKS, line, lineage=folder)


def _older_on_wire(lines: tuple[Line, ...]) -> Iterator[Hit]:
    """What certbot or `openssl x509` says of the file, beside the same of `s_client` or curl: nginx was not reloaded."""
    wire: tuple[datetime, Line, tuple[str, ...]] | None = None
    disk: datetime | None = None
    listed: dict[str, datetime] = {}
    domains: list[str] = []
    asked: tuple[str, ...] | None = None
    on_disk = False
    for line in lines:
        connected = _ON_WIRE.search(line.text)
        if connected:
            asked, on_disk = unique([host(connected[1])]), False
        elif _ON_DISK.search(line.text):
            asked, on_disk = None, True
        names, expires = _DOMAINS.match(line.text), _EXPIRES.match(line.text)
        if names:
            domains = names[1].replace(",", " ").split()
        elif expires:
            listed.update(dict.fromkeys(domains, datetime.fromisoformat(expires[1])))
        end = _date(line.text)
        if end and asked is not None:
            wire = (end, line, asked)
        elif end and on_disk:
            disk = end
    if wire and not disk:
        disk = next((listed[name] for name in wire[2] if name in listed), None)
    if wire and disk and wire[0] < disk:
        yield _hit(OLDER, wire[1], names=wire[2])


def _circles(document: Document) -> Iterator[Hit]:
    """The same address, answered with a redirect to itself several times: an access log or `curl -IL`.

    Many visitors may ask for one page: an access log proves a circle only behind a proxy that is named.
    """
    cloudflare = "cloudflare" in document.squeezed
    enough = _A_CIRCLE - 1 if cloudflare and "flexible" in document.squeezed else _A_CIRCLE
    seen: dict[str, int] = {}
    for line in document.lines:
        access, location = _ACCESS.match(line.text), _LOCATION.match(line.text)
        key = f"get {access[2]}" if access else location[1] if location else ""
        if not key or ".well-known" in key or (access and not cloudflare):
            continue
        seen[key] = seen.get(key, 0) + 1
        if seen[key] == enough:
            yield _hit(CLOUDFLARE_LOOP if cloudflare else LOOP, line)
