"""Host names as certificates and DNS write them: A-labels, lower-case, no trailing dot.

Unicode names go through UTS 46 (non-transitional, STD3 rules) and IDNA 2008, so symbols and emoji are refused even
where some registry sells them. Whatever passes consists of `a-z 0-9 - .` only, so it can be neither an option nor a
path nor shell syntax.
"""

import ipaddress
import re
from collections.abc import Iterable
from functools import lru_cache

import idna

from contracts.text import shown

MAX_NAME_CHARACTERS = 253
"""RFC 1035 2.3.4: 255 octets on the wire are 253 characters of text."""

MAX_NAMES = 100
"""Let's Encrypt's classic profile takes at most 100 names per certificate (letsencrypt.org/docs/profiles)."""

_MAX_LABEL_CHARACTERS = 63
# Unicode names shrink and grow under mapping and Punycode; no sane one of this length becomes 253 characters.
_MAX_RAW_CHARACTERS = 1024
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
# What inet_aton and browsers read as a number: such a "name" would be looked up as an address.
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_FORBIDDEN_SYNTAX = (
    ("://", "is a URL"),
    ("/", "has a path"),
    ("@", "has an @"),
    (":", "has a port"),
    ("_", "has an underscore"),
    ("*", "has a * that is not its whole first label"),
    ("..", "has an empty label"),
)


class InvalidName(ValueError):  # noqa: N818 - it names the finding, which becomes a rejection
    """A text is not a host name that a certificate can be issued for.

    Attributes:
        name: the text as it came.
        why: what is wrong, as a clause that follows the name.
        wildcard: True where the only thing wrong is a leading `*.`.
    """

    def __init__(self, name: str, why: str, *, wildcard: bool = False) -> None:
        super().__init__(f"{shown(name)} {why}")
        self.name = name
        self.why = why
        self.wildcard = wildcard


def normalise_name(raw: str) -> str:
    """Normalise a name that a certificate is to carry.

    Args:
        raw: the name as a person or program wrote it.

    Returns:
        A-labels, lower-case, without a trailing dot, at least two labels, at most 253 characters.

    Raises:
        InvalidName: it is blank, an address, has a port, path, underscore or space, one label only, or is too long;
            a wildcard has `wildcard` set.
    """
    if raw.startswith("*."):
        normalise_name(raw[2:])
        raise InvalidName(raw, "is a wildcard", wildcard=True)
    name = _encode(raw)
    if "." not in name:
        raise InvalidName(raw, "has no dot")
    return name


def normalise_names(domain: str, aliases: Iterable[str]) -> tuple[str, ...]:
    """Normalise all names of one certificate.

    Args:
        domain: the primary name.
        aliases: further names, in any order, with any repetition.

    Returns:
        The primary name first, then the others in their order, each once. May be more than `MAX_NAMES`.

    Raises:
        InvalidName: for the first that does not normalise.
    """
    return tuple(dict.fromkeys(map(normalise_name, (domain, *aliases))))


def normalise_host(raw: str) -> str:
    """Normalise what SSH connects to: an address, or a name that may have one label only.

    Args:
        raw: the host without port, user or brackets.

    Returns:
        An address in its shortest form, or a name as in `normalise_name`.

    Raises:
        InvalidName: it is neither.
    """
    try:
        return normalise_address(raw)
    except ValueError:
        return _encode(raw)


def normalise_address(raw: str) -> str:
    """Normalise an IPv4 or IPv6 address.

    Args:
        raw: the address without brackets, prefix length or zone.

    Returns:
        Its shortest form (RFC 5952).

    Raises:
        ValueError: it is not an address, or names a zone, which means something on one machine only.
    """
    if "%" in raw:
        raise ValueError("has a zone")
    return str(ipaddress.ip_address(raw))


# One command asks for the same few names several times: for its hash, its checks and its values.
@lru_cache(maxsize=4096)
def _encode(raw: str) -> str:
    _refuse_known_mistakes(raw)
    try:
        name = idna.encode(raw, uts46=True, std3_rules=True).decode("ascii").removesuffix(".")
    except (
        UnicodeError
    ) as error:  # idna.IDNAError is one, and so is what its codec raises for lone surrogates
        raise InvalidName(raw, "is not a valid host name") from error
    labels = name.split(".")
    if not all(_LABEL.fullmatch(label) for label in labels):
        raise InvalidName(raw, "is not a valid host name")
    if _NUMBER.fullmatch(labels[-1]):
        raise InvalidName(raw, "is or looks like an IP address")
    return name


def _refuse_known_mistakes(raw: str) -> None:
    """Name the mistakes that people make; everything else is found by the encoding itself."""
    if not raw.strip():
        raise InvalidName(raw, "is blank")
    if len(raw.removesuffix(".")) > (MAX_NAME_CHARACTERS if raw.isascii() else _MAX_RAW_CHARACTERS):
        raise InvalidName(raw, f"is longer than {MAX_NAME_CHARACTERS} characters")
    if any(character.isspace() for character in raw):
        raise InvalidName(raw, "has a space")
    if _is_address(raw):
        raise InvalidName(raw, "is or looks like an IP address")
    for syntax, why in _FORBIDDEN_SYNTAX:
        if syntax in raw:
            raise InvalidName(raw, why)
    if raw.isascii() and max(map(len, raw.split("."))) > _MAX_LABEL_CHARACTERS:
        raise InvalidName(raw, f"has a label longer than {_MAX_LABEL_CHARACTERS} characters")


def _is_address(raw: str) -> bool:
    try:
        ipaddress.ip_address(raw.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True
