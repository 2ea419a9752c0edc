"""What each CA allows: its figures as data, and their reader (DESIGN B.7, CERTPILOT_CA_LIMITS_FILE).

The file is JSON, as `workers/core/data/ca_limits.json` shows it. Per CA: `directory_url`, and where known `name`,
`names_per_certificate`, `renewal_days` (the same exact set issued within so many days makes an order a renewal) and
`limits`; per limit `count` and `period_seconds`, and `burst` where the bucket is larger than `count`. A limit that is
left out does not exist at that CA.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from types import MappingProxyType
from urllib.parse import urlsplit, urlunsplit

from workers.core.limits.buckets import Limit, LimitName

_RENEWAL_DAYS = 120


class CaLimitsError(ValueError):
    """A file of CA limits is wrong.

    Attributes:
        field: where, for example `cas[0].limits.orders_per_account.count`; empty where it is not JSON.
    """

    def __init__(self, where: str, what: str) -> None:
        super().__init__(f"{where}: {what}" if where else what)
        self.field = where


@dataclass(frozen=True, slots=True)
class CaProfile:
    """One CA's rules.

    Attributes:
        directory_url: its ACME directory, normalised; also its name in bucket keys.
        name: for people.
        limits: its figures by name; empty means that nothing is known and nothing is held back.
        names_per_certificate: how many names one certificate may have; None where unknown.
        renewal_days: an order for an exact set that was issued within so many days is a renewal.
    """

    directory_url: str
    name: str
    limits: Mapping[LimitName, Limit] = field(default_factory=lambda: MappingProxyType({}))
    names_per_certificate: int | None = None
    renewal_days: int = _RENEWAL_DAYS


@dataclass(frozen=True, slots=True)
class CaProfiles:
    """The CAs whose rules are known."""

    by_url: Mapping[str, CaProfile]

    def of(self, directory_url: str) -> CaProfile:
        """The profile of a directory; one without limits where nothing is known of it."""
        url = normal_url(directory_url)
        return self.by_url.get(url) or CaProfile(url, urlsplit(url).netloc)

    def overridden_by(self, other: "CaProfiles") -> "CaProfiles":
        """Both, where the other's word counts for a directory that both have (as a whole, limit by limit mixes two CAs)."""
        return CaProfiles(MappingProxyType({**self.by_url, **other.by_url}))


def normal_url(url: str) -> str:
    """A directory URL with its scheme and host in lower case and without a slash at its end."""
    parts = urlsplit(url.strip())
    return urlunsplit((parts.scheme.lower(), parts.netloc.lower(), parts.path.rstrip("/"), parts.query, ""))


@cache
def builtin_profiles() -> CaProfiles:
    """Let's Encrypt's published figures for its own two directories, which came with this package."""
    # Package data is a constant, not the outside world: the same bytes for every caller, as for the suffix list.
    return parse_ca_limits(resources.files("workers.core").joinpath("data/ca_limits.json").read_text("utf-8"))


def parse_ca_limits(text: str) -> CaProfiles:
    """Read a file of CA limits.

    Raises:
        CaLimitsError: it is not JSON, a field is missing, unknown or wrong; the message names the field and what is
            accepted.
    """
    try:
        document = json.loads(text)
    except ValueError as error:
        raise CaLimitsError("", f"not JSON: {error}") from None
    root = _object(document, "the file", {"cas", "as_of", "source"}, {"cas"})
    if not isinstance(root["cas"], list):
        raise CaLimitsError("cas", "must be a list")
    found: dict[str, CaProfile] = {}
    for index, value in enumerate(root["cas"]):
        profile = _profile(value, f"cas[{index}]")
        if profile.directory_url in found:
            raise CaLimitsError(f"cas[{index}].directory_url", f"{profile.directory_url} is there twice")
        found[profile.directory_url] = profile
    return CaProfiles(MappingProxyType(found))


def _profile(value: object, where: str) -> CaProfile:
    known = {"name", "directory_url", "names_per_certificate", "renewal_days", "limits"}
    ca = _object(value, where, known, {"directory_url"})
    url = ca["directory_url"]
    if not isinstance(url, str) or urlsplit(url).scheme not in {"https", "http"} or not urlsplit(url).netloc:
        raise CaLimitsError(f"{where}.directory_url", f"must be an http or https URL, not {url!r}")
    name = ca.get("name", urlsplit(url).netloc)
    if not isinstance(name, str):
        raise CaLimitsError(f"{where}.name", f"must be a text, not {name!r}")
    names = ca.get("names_per_certificate")
    return CaProfile(
        directory_url=normal_url(url),
        name=name,
        limits=_limits(ca.get("limits", {}), f"{where}.limits"),
        names_per_certificate=None if names is None else _count(names, f"{where}.names_per_certificate"),
        renewal_days=_count(ca.get("renewal_days", _RENEWAL_DAYS), f"{where}.renewal_days"),
    )


def _limits(value: object, where: str) -> Mapping[LimitName, Limit]:
    limits: dict[LimitName, Limit] = {}
    for name, figures in _object(value, where, set(LimitName), set()).items():
        at = f"{where}.{name}"
        row = _object(figures, at, {"count", "period_seconds", "burst"}, {"count", "period_seconds"})
        numbers = {key: _count(number, f"{at}.{key}") for key, number in row.items()}
        burst = numbers.get("burst", numbers["count"])
        limits[LimitName(name)] = Limit(LimitName(name), numbers["count"], numbers["period_seconds"], burst)
    return MappingProxyType(limits)


def _object(value: object, where: str, known: set[str], needed: set[str]) -> dict[str, object]:
    if not isinstance(value, dict):
        raise CaLimitsError(where, "must be an object")
    for key in value:
        if key not in known:
            raise CaLimitsError(f"{where}.{key}", f"not known; there is {', '.join(sorted(known))}")
    for key in sorted(needed - value.keys()):
        raise CaLimitsError(f"{where}.{key}", "is missing")
    return value


def _count(value: object, where: str) -> int:
    # JSON's true is an int to Python
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise CaLimitsError(where, f"must be a whole number above 0, not {value!r}")
    return value
