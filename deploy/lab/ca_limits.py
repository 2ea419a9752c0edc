"""Let's Encrypt's rate limits as boulder enforces them: what a new order or account meets, in which words.

Values in, values out, except for the buckets themselves; the time comes in as an argument, in seconds since 1970.
Read in letsencrypt/boulder (2026-08): ratelimits/gcra.go, transaction.go, limiter.go; wfe2/wfe.go NewOrder;
ra/ra.go countCertificateIssued and countFailedValidations. Figures: https://letsencrypt.org/docs/rate-limits/.
"""

import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum

HOUR, DAY = 3600, 86400
NANO = 1_000_000_000  # boulder counts in whole nanoseconds; a float of today's seconds has only 240 of them
RENEWAL_WINDOW_SECONDS = 120 * DAY  # an exact set issued within it is a renewal
SEE = ": see https://letsencrypt.org/docs/rate-limits/#"


class LimitName(StrEnum):
    """Which limit; the value is its anchor on Let's Encrypt's page."""

    REGISTRATIONS_PER_ADDRESS = "new-registrations-per-ip-address"
    ORDERS_PER_ACCOUNT = "new-orders-per-account"
    CERTIFICATES_PER_DOMAIN = "new-certificates-per-registered-domain"
    CERTIFICATES_PER_SET = "new-certificates-per-exact-set-of-identifiers"
    FAILURES = "authorization-failures-per-identifier-per-account"
    FAILURES_FOR_PAUSING = "consecutive-authorization-failures-per-identifier-per-account"


@dataclass(frozen=True, slots=True)
class Figure:
    """One limit: at most `burst` at once, refilled by `count` in each period.

    Attributes:
        burst: capacity of the bucket.
        period_seconds: in which `count` are refilled.
        count: as `burst` where None.
    """

    burst: int
    period_seconds: int
    count: int | None = None

    @property
    def emission_nanoseconds(self) -> int:
        """After how long one is refilled; boulder rounds down too."""
        return self.period_seconds * NANO // (self.count or self.burst)


LETS_ENCRYPT: Mapping[LimitName, Figure] = {
    LimitName.REGISTRATIONS_PER_ADDRESS: Figure(10, 3 * HOUR),
    LimitName.ORDERS_PER_ACCOUNT: Figure(300, 3 * HOUR),
    LimitName.CERTIFICATES_PER_DOMAIN: Figure(50, 7 * DAY),
    LimitName.CERTIFICATES_PER_SET: Figure(5, 7 * DAY),
    LimitName.FAILURES: Figure(5, HOUR),
    LimitName.FAILURES_FOR_PAUSING: Figure(1152, DAY, 1),
}
LETS_ENCRYPT_STAGING: Mapping[LimitName, Figure] = {
    LimitName.REGISTRATIONS_PER_ADDRESS: Figure(50, 3 * HOUR),
    LimitName.ORDERS_PER_ACCOUNT: Figure(1500, 3 * HOUR),
    LimitName.CERTIFICATES_PER_DOMAIN: Figure(30_000, 7 * DAY),
    LimitName.CERTIFICATES_PER_SET: Figure(30_000, 7 * DAY),
    LimitName.FAILURES: Figure(200, HOUR),
}
NONE: Mapping[LimitName, Figure] = {}

_SETTING = {
    LimitName.REGISTRATIONS_PER_ADDRESS: "registrations_per_address",
    LimitName.ORDERS_PER_ACCOUNT: "orders_per_account",
    LimitName.CERTIFICATES_PER_DOMAIN: "certificates_per_registered_domain",
    LimitName.CERTIFICATES_PER_SET: "certificates_per_exact_set",
    LimitName.FAILURES: "failures_per_name",
    LimitName.FAILURES_FOR_PAUSING: "consecutive_failures_per_name",
}
"""What CERTPILOT_CA_LIMITS_FILE calls them."""

_WORDS = {
    LimitName.REGISTRATIONS_PER_ADDRESS: "too many new registrations ({burst}) from this IP address",
    LimitName.ORDERS_PER_ACCOUNT: "too many new orders ({burst}) from this account",
    LimitName.CERTIFICATES_PER_DOMAIN: 'too many certificates ({burst}) already issued for "{subject}"',
    LimitName.CERTIFICATES_PER_SET: "too many certificates ({burst}) already issued for this exact set of identifiers",
    LimitName.FAILURES: 'too many failed authorizations ({burst}) for "{subject}"',
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """An order or account that the CA does not take.

    Attributes:
        limit: which limit; None for a paused name.
        detail: the words of the problem document.
        retry_after_seconds: for the header of that name, which boulder leaves out when it would be 0 and where only a
            person can help (paused): None.
    """

    limit: LimitName | None
    detail: str
    retry_after_seconds: int | None


@dataclass(frozen=True, slots=True)
class _Bucket:
    limit: LimitName
    key: str
    subject: str = ""
    spend: bool = True


@dataclass(slots=True)
class CaLimits:
    """The CA's buckets.

    Attributes:
        figures: the limits in force; one that is absent is not enforced.
        registered_domain: the public suffix of a name and the label before it.
        draw: gives the jitter of a refusal, in [0, 1).
    """

    figures: Mapping[LimitName, Figure]
    registered_domain: Callable[[str], str]
    draw: Callable[[], float] = random.random
    _full_again_at: dict[tuple[LimitName, str], int] = field(default_factory=dict)
    _issued_at: dict[frozenset[str], float] = field(default_factory=dict)
    _paused: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def new_account(self, address: str, now: float) -> Refusal | None:
        """Take a registration from an address, or refuse it."""
        return self._spend([_Bucket(LimitName.REGISTRATIONS_PER_ADDRESS, address)], now)

    def account_not_made(self, address: str, now: float) -> None:
        """Give back what a registration cost that then failed for another reason."""
        self._refund(LimitName.REGISTRATIONS_PER_ADDRESS, address, now)

    def new_order(self, account: str, names: Iterable[str], now: float) -> Refusal | None:
        """Take an order, or refuse it for the strictest of the limits that it meets.

        Only orders per account are spent here; failures and certificates are only looked at and spent when they
        happen. A renewal (the exact set was issued within 120 days) is exempt from orders and certificates per domain.
        """
        exact = frozenset(names)
        if paused := sorted(self._paused[account] & exact):
            return Refusal(None, _paused_words(paused), None)
        buckets = [
            _Bucket(LimitName.FAILURES, f"{account}:{name}", name, spend=False) for name in sorted(exact)
        ]
        buckets.append(_Bucket(LimitName.CERTIFICATES_PER_SET, _set_key(exact), spend=False))
        if not self.is_renewal(exact, now):
            buckets.insert(0, _Bucket(LimitName.ORDERS_PER_ACCOUNT, account))
            domains = sorted({self.registered_domain(name) for name in exact})
            buckets += [
                _Bucket(LimitName.CERTIFICATES_PER_DOMAIN, name, name, spend=False) for name in domains
            ]
        return self._spend(buckets, now)

    def order_not_made(self, account: str, names: Iterable[str], now: float) -> None:
        """Give back what an order cost that was then not made."""
        if not self.is_renewal(frozenset(names), now):
            self._refund(LimitName.ORDERS_PER_ACCOUNT, account, now)

    def issued(self, names: Iterable[str], now: float) -> None:
        """Count a certificate."""
        exact = frozenset(names)
        if not self.is_renewal(exact, now):
            for domain in {self.registered_domain(name) for name in exact}:
                self._spend([_Bucket(LimitName.CERTIFICATES_PER_DOMAIN, domain)], now)
        self._spend([_Bucket(LimitName.CERTIFICATES_PER_SET, _set_key(exact))], now)
        self._issued_at[exact] = now

    def failed(self, account: str, name: str, now: float) -> None:
        """Count a failed authorization; too many in a row pause the name for this account."""
        self._spend([_Bucket(LimitName.FAILURES, f"{account}:{name}")], now)
        if self._spend([_Bucket(LimitName.FAILURES_FOR_PAUSING, f"{account}:{name}")], now):
            self.pause(account, name)

    def validated(self, account: str, name: str) -> None:
        """Note a success: the count of failures in a row starts anew."""
        self._full_again_at.pop((LimitName.FAILURES_FOR_PAUSING, f"{account}:{name}"), None)

    def pause(self, account: str, name: str) -> None:
        """Pause a name for an account, as the CA does by itself after months of failures."""
        self._paused[account].add(name)

    def unpause(self, account: str) -> None:
        """Do what a person does on the CA's portal: all names of the account go on."""
        self._paused[account].clear()
        for limit, key in list(self._full_again_at):
            if limit is LimitName.FAILURES_FOR_PAUSING and key.startswith(f"{account}:"):
                del self._full_again_at[limit, key]

    def is_renewal(self, names: frozenset[str], now: float) -> bool:
        """Tell whether this exact set was issued within 120 days."""
        at = self._issued_at.get(names)
        return at is not None and now - at <= RENEWAL_WINDOW_SECONDS

    def _spend(self, buckets: list[_Bucket], now: float) -> Refusal | None:
        """Spend one from each bucket, or nothing where one of them has none: the one that waits longest says so."""
        now_ns, full_again = round(now * NANO), {}
        worst: tuple[int, _Bucket] | None = None
        for bucket in buckets:
            figure = self.figures.get(bucket.limit)
            if figure is None:
                continue
            key = (bucket.limit, bucket.key)
            step = figure.emission_nanoseconds
            at = max(now_ns, self._full_again_at.get(key, now_ns)) + step
            wait = at - step * figure.burst - now_ns
            if wait > 0:
                worst = max(worst or (0, bucket), (wait, bucket), key=lambda pair: pair[0])
            elif bucket.spend:
                full_again[key] = at
        if worst is None:
            self._full_again_at.update(full_again)
            return None
        return self._refusal(worst[1], worst[0] / NANO, now)

    def _refund(self, limit: LimitName, key: str, now: float) -> None:
        figure, now_ns = self.figures.get(limit), round(now * NANO)
        at = self._full_again_at.get((limit, key), 0)
        if figure is not None and at > now_ns:
            self._full_again_at[limit, key] = max(now_ns, at - figure.emission_nanoseconds)

    def _refusal(self, bucket: _Bucket, wait_seconds: float, now: float) -> Refusal:
        wait_seconds *= 1 + 0.03 * self.draw()  # boulder spreads its answers over 3 %
        figure = self.figures[bucket.limit]
        words = _WORDS.get(bucket.limit, "").format(burst=figure.burst, subject=bucket.subject)
        again = datetime.fromtimestamp(now + wait_seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        detail = f"{words} in the last {go_duration(figure.period_seconds)}, retry after {again}{SEE}{bucket.limit}"
        return Refusal(bucket.limit, detail, round(wait_seconds) or None)


def as_setting(directory_url: str, figures: Mapping[LimitName, Figure]) -> str:
    """Write the figures as CERTPILOT_CA_LIMITS_FILE wants them, so that a worker knows this CA as this CA is."""
    limits = {
        _SETTING[name]: {
            "count": figure.count or figure.burst,
            "period_seconds": figure.period_seconds,
            "burst": figure.burst,
        }
        for name, figure in figures.items()
    }
    ca = {
        "name": "the lab's CA",
        "directory_url": directory_url,
        "renewal_days": RENEWAL_WINDOW_SECONDS // DAY,
        "limits": limits,
    }
    return json.dumps({"cas": [ca]}, indent=2) + "\n"


def go_duration(seconds: int) -> str:
    """Write a duration of whole seconds as Go does: 3600 is "1h0m0s", 300 is "5m0s"."""
    hours, rest = divmod(seconds, HOUR)
    minutes, seconds = divmod(rest, 60)
    if hours:
        return f"{hours}h{minutes}m{seconds}s"
    return f"{minutes}m{seconds}s" if minutes else f"{seconds}s"


def _set_key(names: frozenset[str]) -> str:
    return ",".join(sorted(names))


def _paused_words(names: list[str]) -> str:
    return (
        f"Your account is temporarily prevented from requesting certificates for {', '.join(names)} and possibly "
        "others. Please visit: https://portal.lab.test/sfe/v1/unpause?jwt=bGFi"
    )
