"""Which buckets an order, a failed validation and a registration touch (DESIGN B.7).

As boulder does it (ratelimits/transaction.go, ra/ra.go): an order takes a token of its account's orders at once; the
exact set and the registered domains are asked about at the order and pay when the certificate is issued; failures are
asked about at the order and pay when a validation fails. Account buckets are keyed by CA and account; exact-set and
registered-domain buckets are the CA's own, whichever account orders.
"""

import hashlib
import ipaddress
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from workers.core.limits.buckets import Limit, LimitName
from workers.core.limits.profiles import CaProfile

_IPV6_RANGE_BITS = 48


class PaidBy(StrEnum):
    """What makes the CA take the token."""

    REGISTRATION = "registration"
    ORDER = "order"
    CERTIFICATE = "certificate"
    FAILURE = "failure"


class OrderFate(StrEnum):
    """What became of a reserved order, as far as its tokens go."""

    NOT_MADE = "not made"  # nothing reached the CA, or it refused the order
    MADE = "made"  # an order, but no certificate: a validation failed
    ISSUED = "issued"
    UNKNOWN = "unknown"  # the run was killed after it had begun (INTERRUPTED)


@dataclass(frozen=True, slots=True)
class Spend:
    """Tokens of one bucket that an action needs.

    Attributes:
        limit: the limit and its figures.
        key: the bucket's key, unique under the limit's name.
        paid_by: what makes the CA take them.
        cost: how many.
    """

    limit: Limit
    key: str
    paid_by: PaidBy
    cost: int = 1

    @property
    def subject(self) -> str:
        """What the bucket is about: a host name, a registered domain, a payer, an address or the hash of a set."""
        return self.key.rpartition("|")[2]

    @property
    def only_asks(self) -> bool:
        """Whether an order only has to find the tokens there, and neither reserves nor spends them."""
        return self.paid_by is PaidBy.FAILURE

    def is_spent(self, fate: OrderFate) -> bool:
        """Whether the CA took the reserved tokens. In doubt it did: that costs us time, the other way a refusal."""
        if self.only_asks or fate is OrderFate.NOT_MADE:
            return False
        return fate is not OrderFate.MADE or self.paid_by is not PaidBy.CERTIFICATE


@dataclass(frozen=True, slots=True)
class Order:
    """An order that is about to be made.

    Attributes:
        account: the ACME account's URI; None until the server's account is known.
        server_key: `Server.key`, which stands for the account until then (one server, one account).
        names: every name, normalised.
        registered_domains: those of `names`, each once.
        last_issued_at: when a certificate for exactly these names was last issued, by whomever; None if never seen.
    """

    account: str | None
    server_key: str
    names: tuple[str, ...]
    registered_domains: tuple[str, ...]
    last_issued_at: datetime | None = None

    @property
    def payer(self) -> str:
        """Whose account buckets it touches."""
        return self.account or self.server_key


def exact_set_hash(names: tuple[str, ...]) -> str:
    """One word for a set of names, whatever their order and case: SHA-256 over the sorted names, hexadecimal."""
    return hashlib.sha256(",".join(sorted({name.lower() for name in names})).encode()).hexdigest()


def is_renewal(profile: CaProfile, order: Order, now: datetime) -> bool:
    """Whether the CA takes the order for a renewal: the exact set was issued within its window (Let's Encrypt: 120 days)."""
    return order.last_issued_at is not None and now - order.last_issued_at < timedelta(
        days=profile.renewal_days
    )


def spends_of_order(profile: CaProfile, order: Order, now: datetime) -> tuple[Spend, ...]:
    """The buckets that must all allow an order, or it waits for the one that frees last.

    A renewal of an unchanged set is spared the account's orders and the registered domains, but neither the exact set
    nor the failures (certbot sends no `replaces`, so it never has the full exemption; FACTS-certbot 3.1).

    Args:
        profile: of the CA.
        order: the order.
        now: UTC.

    Returns:
        Nothing at a CA without known limits.
    """
    spends: list[Spend | None] = []
    if not is_renewal(profile, order, now):
        spends.append(_spend(profile, LimitName.ORDERS_PER_ACCOUNT, PaidBy.ORDER, order.payer))
        spends.extend(
            _spend(profile, LimitName.CERTIFICATES_PER_REGISTERED_DOMAIN, PaidBy.CERTIFICATE, domain)
            for domain in order.registered_domains
        )
    exact_set = exact_set_hash(order.names)
    spends.append(_spend(profile, LimitName.CERTIFICATES_PER_EXACT_SET, PaidBy.CERTIFICATE, exact_set))
    return *_only(spends), *spends_of_failure(profile, order.payer, order.names)


def spends_of_failure(profile: CaProfile, payer: str, names: tuple[str, ...]) -> tuple[Spend, ...]:
    """What a failed validation of these names costs; before an order, what must still be there for each name.

    So an order is held back while no consecutive failure is left: the CA pauses a name at the failure that finds none,
    and only a person can undo that (`ACCOUNT_PAUSED`). One comes back per day.
    """
    limits = (LimitName.FAILURES_PER_NAME, LimitName.CONSECUTIVE_FAILURES_PER_NAME)
    return _only([_spend(profile, limit, PaidBy.FAILURE, payer, name) for name in names for limit in limits])


def reset_by_success(profile: CaProfile, payer: str, names: tuple[str, ...]) -> tuple[Spend, ...]:
    """The buckets that are full again once these names were validated: the failures are no longer consecutive."""
    limit = LimitName.CONSECUTIVE_FAILURES_PER_NAME
    return _only([_spend(profile, limit, PaidBy.FAILURE, payer, name) for name in names])


def spends_of_registration(profile: CaProfile, address: str) -> tuple[Spend, ...]:
    """What a new ACME account costs, made from this address of the server (certbot registers from there).

    Args:
        profile: of the CA.
        address: IPv4 or IPv6 address, or the server's host name where no address is known.
    """
    spends = [_spend(profile, LimitName.REGISTRATIONS_PER_ADDRESS, PaidBy.REGISTRATION, address)]
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        ip = None
    if isinstance(ip, ipaddress.IPv6Address):
        block = str(ipaddress.ip_network((ip, _IPV6_RANGE_BITS), strict=False))
        spends.append(_spend(profile, LimitName.REGISTRATIONS_PER_IPV6_RANGE, PaidBy.REGISTRATION, block))
    return _only(spends)


def _spend(profile: CaProfile, name: LimitName, paid_by: PaidBy, *subject: str) -> Spend | None:
    limit = profile.limits.get(name)
    # "|" stands in no URL, host name, address or hash
    return None if limit is None else Spend(limit, "|".join((profile.directory_url, *subject)), paid_by)


def _only(spends: list[Spend | None]) -> tuple[Spend, ...]:
    return tuple(spend for spend in spends if spend is not None)
