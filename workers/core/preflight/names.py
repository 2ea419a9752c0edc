"""The preflight's checks of the names: DNS, CAA, and what each published address answers."""

from collections.abc import Sequence

from contracts.codes import Code
from workers.core.preflight.caa import judge_caa
from workers.core.preflight.model import CheckResult, Observations, Verdict
from workers.core.preflight.observed import CaaAnswer, DnsStatus
from workers.core.preflight.reach import Reach, judge_addresses
from workers.core.preflight.server import failed, listed, passed, unsure

_CREATE = "Create an A record that points to {server}, or leave the name out of the request"
_NO_ADDRESS = {
    DnsStatus.NXDOMAIN: ("does not exist in DNS", _CREATE),
    DnsStatus.NODATA: ("has neither an A nor an AAAA record", _CREATE),
    DnsStatus.SERVFAIL: (
        "cannot be looked up: its nameservers fail",
        "See that the domain's nameservers answer and that DNSSEC is in order",
    ),
}


def check_dns(o: Observations) -> CheckResult:
    """Every name has an address."""
    broken = {name: status for name in o.names if (status := _no_address(o, name)) is not None}
    sure = {name: status for name, status in broken.items() if status is not DnsStatus.NO_REPLY}
    if sure:
        found = "; ".join(f"{name} {_NO_ADDRESS[status][0]}" for name, status in list(sure.items())[:5])
        more = f"; and {len(sure) - 5} more" if len(sure) > 5 else ""  # noqa: PLR2004
        do = _NO_ADDRESS[next(iter(sure.values()))][1].format(server=_server(o))
        return failed("DNS", Code.DNS_NOT_RESOLVING, f"{found}{more}. {do}.", tuple(sure))
    if broken or any(name not in o.dns for name in o.names):
        names = tuple(name for name in o.names if name in broken or name not in o.dns)
        return unsure("DNS", f"No resolver answered for {listed(names)}.", names)
    return passed("DNS", "Every name resolves.")


def _no_address(o: Observations, name: str) -> DnsStatus | None:
    """Why a name has no address; None where it has one, or nobody asked."""
    answer = o.dns.get(name)
    if answer is None or answer.addresses:
        return None
    both = (answer.a.status, answer.aaaa.status)
    order = (DnsStatus.NXDOMAIN, DnsStatus.SERVFAIL, DnsStatus.NO_REPLY, DnsStatus.NODATA)
    return next((status for status in order if status in both), DnsStatus.NODATA)


def _server(o: Observations) -> str:
    own = [a for a in o.own_addresses if ":" not in a] or list(o.own_addresses)
    return f"the server's address {own[0]}" if own else "the server's address"


def check_caa(o: Observations) -> CheckResult:
    """No CAA record forbids this CA."""
    uris = tuple(account.uri for account in o.facts.accounts if account.uri)
    answers = [(name, o.dns[name].caa) for name in o.names if name in o.dns]
    verdicts = [(name, caa, judge_caa(caa, o.ca_identities, account_uris=uris)) for name, caa in answers]
    forbidden = [(name, caa) for name, caa, verdict in verdicts if verdict is Verdict.FAIL]
    if forbidden:
        names = tuple(name for name, _ in forbidden)
        wanted = o.ca_identities[0] if o.ca_identities else "the CA's name"
        where = ", ".join(sorted({caa.found_at or name for name, caa in forbidden})[:5])
        message = (
            f"The CAA records of {where} ({_shown(forbidden[0][1])}) forbid this CA for {listed(names)}. "
            f'Add `0 issue "{wanted}"` there, or remove them.'
        )
        return failed("CAA", Code.CAA_FORBIDS, message, names)
    doubtful = tuple(name for name, _, verdict in verdicts if verdict is Verdict.UNSURE)
    if doubtful:
        return unsure(
            "CAA",
            f"It could not be told whether CAA records forbid this CA for {listed(doubtful)}.",
            doubtful,
        )
    return passed("CAA", "No CAA record forbids this CA.")


def _shown(answer: CaaAnswer) -> str:
    return ", ".join(f'{r.flags} {r.tag} "{r.value[:80]}"' for r in answer.records[:4])


def check_points_here(o: Observations) -> CheckResult:
    """Every published address is this server, or a proxy in front of it."""
    return _about(o, "addresses", "Every address leads to this server.", Code.DNS_WRONG_SERVER)


def check_cloudflare(o: Observations) -> CheckResult:
    """Where Cloudflare stands in front, it lets the CA through."""
    return _about(
        o,
        "Cloudflare",
        "Cloudflare is not in the way.",
        Code.CLOUDFLARE_ORIGIN_DOWN,
        Code.CLOUDFLARE_STRICT_ORIGIN,
        Code.CLOUDFLARE_FLEXIBLE_LOOP,
    )


def check_port_80(o: Observations) -> CheckResult:
    """Port 80 can be reached."""
    return _about(o, "port 80", "Port 80 answers.", Code.PORT_80_BLOCKED)


def check_port_443(o: Observations) -> CheckResult:
    """Where port 80 redirects to HTTPS, port 443 answers."""
    return _about(o, "port 443", "No redirect leads to a closed port 443.", Code.PORT_443_BLOCKED)


def check_redirects(o: Observations) -> CheckResult:
    """No redirect goes in a circle."""
    return _about(o, "redirects", "No redirect goes in a circle.", Code.REDIRECT_LOOP)


def check_challenge(o: Observations) -> CheckResult:
    """The test file is served; addresses that could not be told are named here."""
    reaches = judge_addresses(o)
    result = _about(o, "challenge", "", Code.CHALLENGE_FAILED)
    if result.verdict is Verdict.FAIL:
        return result
    doubtful = [reach for reach in reaches if reach.verdict is Verdict.UNSURE]
    if doubtful:
        found = "; ".join(reach.found for reach in doubtful[:5])
        return unsure("challenge", f"{found}.", tuple(dict.fromkeys(reach.name for reach in doubtful)))
    fetched = tuple(dict.fromkeys(probe.name for probe in o.probes if probe.matches))
    if fetched:
        return passed("challenge", f"The test file was fetched for {listed(fetched)}.")
    return passed("challenge", "certbot's nginx plugin will answer; no test file could be placed.")


def _about(o: Observations, check: str, good: str, *codes: Code) -> CheckResult:
    """Put what was found at all addresses into one result: the first of the codes that occurs counts."""
    reaches = judge_addresses(o)
    for code in codes:
        bad = [reach for reach in reaches if reach.code is code]
        if bad:
            return failed(check, code, _sentence(bad), tuple(dict.fromkeys(reach.name for reach in bad)))
    return passed(check, good)


def _sentence(bad: Sequence[Reach]) -> str:
    """What was found, at most five times, then what to do."""
    found = list(dict.fromkeys(reach.found for reach in bad))
    more = f"; and {len(found) - 5} more" if len(found) > 5 else ""  # noqa: PLR2004
    return f"{'; '.join(found[:5])}{more}. {bad[0].do}."
