"""What the server's script says of its server (verb `inspect` of workers/edges/server/certpilot-agent.sh), read into facts.

The answer is lines `key=value` and sections: `begin NAME`, lines behind a `|`, `end NAME`; its last line is
`result=OK`. A missing key means "not known", an empty value "not there".
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

_LINEAGE_WORDS = 4


@dataclass(frozen=True, slots=True)
class Account:
    """One ACME account that certbot on the server knows.

    Attributes:
        directory: host and path of the CA's directory, as certbot names its folder.
        account_id: the folder of the account; what `--account` takes.
        uri: the account's URL at the CA; empty where it is not known.
    """

    directory: str
    account_id: str
    uri: str = ""


class Part(StrEnum):
    """One part of certbot's files for a certificate."""

    NO = "no"
    YES = "yes"
    BROKEN = "broken"  # there, but not what certbot makes


@dataclass(frozen=True, slots=True)
class Lineage:
    """What there is of certbot's files for one certificate.

    Attributes:
        renewal: the file `renewal/NAME.conf`.
        live: the folder `live/NAME` with its links.
        archive: the folder `archive/NAME` with what they point to.
    """

    renewal: Part
    live: Part
    archive: Part


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """One look at a server. Every None means that the server did not say.

    Attributes:
        complete: whether the whole answer came.
        os: the distribution's name.
        user_id: who the script runs as; 0 is root.
        boot_id: changes with every boot.
        epoch_ms: the server's clock, milliseconds since 1970 UTC.
        certbot_path: where certbot is; empty: nowhere.
        certbot_version: as it names itself, e.g. `2.1.0`; empty: it did not.
        certbot_plugins: plugins found, of those asked about; `unknown` among them: could not be told.
        certbot_busy: whether somebody holds certbot's host-wide lock.
        nginx_path: where nginx is; empty: nowhere.
        nginx_version: e.g. `1.22.1`.
        nginx_running: whether its master process lives.
        nginx_test_exit: exit code of `nginx -T`.
        nginx_test: what it said.
        nginx_config: the dump, cut at 4 MiB.
        disk_free_kb: free space by place (`etc`: /etc/letsencrypt, `var`: /var/lib, `log`: /var/log), in KiB.
        inode_free: free inodes by the same places; a file system that counts none is left out.
        memory_available_kb: in KiB.
        port80_listeners: names of the programs that listen on port 80; empty: none does.
        port443_listeners: the same for port 443.
        addresses: the server's own addresses.
        systemd: whether systemd runs it.
        accounts: ACME accounts.
        certificates: by lineage, the PEM text of `live/NAME/cert.pem`.
        lineages: what there is of certbot's files, for each name that was asked about.
        timers: what systemd and cron say of certbot's timers.
        failed_renewal: what certbot logged of its last try to renew the lineage that was asked about so, where that
            failed; empty: it did not, has never tried, was not asked about, or the script is older than the question.
        errors: what the script's programs wrote to their standard error.
    """

    complete: bool = False
    os: str = ""
    user_id: int | None = None
    boot_id: str = ""
    epoch_ms: int | None = None
    certbot_path: str | None = None
    certbot_version: str | None = None
    certbot_plugins: tuple[str, ...] | None = None
    certbot_busy: bool = False
    nginx_path: str | None = None
    nginx_version: str = ""
    nginx_running: bool | None = None
    nginx_test_exit: int | None = None
    nginx_test: str = ""
    nginx_config: str = ""
    disk_free_kb: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    inode_free: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    memory_available_kb: int | None = None
    port80_listeners: tuple[str, ...] | None = None
    port443_listeners: tuple[str, ...] | None = None
    addresses: tuple[str, ...] = ()
    systemd: bool | None = None
    accounts: tuple[Account, ...] = ()
    certificates: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    lineages: Mapping[str, Lineage] = field(default_factory=lambda: MappingProxyType({}))
    timers: str = ""
    failed_renewal: str = ""
    errors: str = ""


def parse_server_facts(text: str) -> ServerFacts:
    """Read the answer to `inspect`.

    Args:
        text: the whole answer; of a cut one every line and section counts that came whole, and `complete` is False.

    Returns:
        The facts. Never raises: what is not understood counts as not said.
    """
    values, sections = _split(text)
    plugins = sections.get("certbot_plugins")
    return ServerFacts(
        complete=values.get("result") == "OK",
        os=values.get("os", ""),
        user_id=_number(values.get("user_id")),
        boot_id=values.get("boot_id", ""),
        epoch_ms=_number(values.get("epoch_ms")),
        certbot_path=values.get("certbot_path"),
        certbot_version=values.get("certbot_version"),
        certbot_plugins=None if plugins is None else tuple(plugins.split()),
        certbot_busy=values.get("certbot_busy") == "yes",
        nginx_path=values.get("nginx_path"),
        nginx_version=values.get("nginx_version", ""),
        nginx_running=_yes_or_no(values.get("nginx_running")),
        nginx_test_exit=_number(values.get("nginx_test_exit")),
        nginx_test=sections.get("nginx_test", ""),
        nginx_config=sections.get("nginx_config", ""),
        disk_free_kb=_places(values, "disk_free_kb_"),
        inode_free=_places(values, "inode_free_"),
        memory_available_kb=_number(values.get("memory_available_kb")),
        port80_listeners=_listeners(values.get("port80_listener")),
        port443_listeners=_listeners(values.get("port443_listener")),
        addresses=tuple(values.get("addresses", "").split()),
        systemd=_yes_or_no(values.get("systemd")),
        accounts=_accounts(sections.get("accounts", "")),
        certificates=_certificates(sections.get("certificates", "")),
        lineages=_lineages(sections.get("lineages", "")),
        timers=sections.get("timers", ""),
        failed_renewal=sections.get("failed_renewal", ""),
        errors=sections.get("errors", ""),
    )


def _split(text: str) -> tuple[dict[str, str], dict[str, str]]:
    values: dict[str, str] = {}
    sections: dict[str, list[str]] = {}
    inside: list[str] | None = None
    name = ""
    *lines, rest = text.split("\n")
    # A cut line is no fact, and half a configuration has no server block for half the names.
    for line in lines if not rest.startswith("result=") else [*lines, rest]:
        if inside is not None and line.startswith("|"):
            inside.append(line[1:])
        elif line.startswith("begin "):
            name = line.removeprefix("begin ")
            inside = sections.setdefault(name, [])
        elif line.startswith("end "):
            inside = None
        else:
            key, equals, value = line.rstrip("\r").partition("=")
            if equals:
                values[key] = value.strip()
    if inside is not None:
        del sections[name]
    return values, {name: "\n".join(lines) for name, lines in sections.items()}


def _number(value: str | None) -> int | None:
    # 18 digits hold every count and clock there is; Python refuses to read numbers of many thousand.
    usable = value is not None and value.isascii() and value.isdigit() and len(value) <= 18  # noqa: PLR2004
    return int(value) if usable and value is not None else None


def _yes_or_no(value: str | None) -> bool | None:
    return {"yes": True, "no": False}.get(value or "")


def _places(values: Mapping[str, str], prefix: str) -> Mapping[str, int]:
    numbers = {
        key.removeprefix(prefix): _number(value) for key, value in values.items() if key.startswith(prefix)
    }
    return MappingProxyType({place: number for place, number in numbers.items() if number is not None})


def _listeners(value: str | None) -> tuple[str, ...] | None:
    """`nginx`, `apache2,nginx`, `none`, or `unknown` where the server cannot tell."""
    names = tuple((value or "").replace(",", " ").split())
    if value is None or "unknown" in names:
        return None
    return () if names == ("none",) else names


def _accounts(section: str) -> tuple[Account, ...]:
    """Lines `DIRECTORY/ACCOUNT URI`, the URI where certbot noted it."""
    accounts = []
    for line in section.split("\n"):
        path, _, uri = line.partition(" ")
        directory, _, account_id = path.rpartition("/")
        if directory and account_id:
            accounts.append(Account(directory, account_id, uri.strip()))
    return tuple(accounts)


def _certificates(section: str) -> Mapping[str, str]:
    """For each lineage a line `name=NAME` and then its PEM text."""
    found: dict[str, str] = {}
    name = ""
    for line in section.split("\n"):
        if line.startswith("name="):
            name = line.removeprefix("name=")
            found[name] = ""
        elif name:
            found[name] += line + "\n"
    return MappingProxyType(found)


def _lineages(section: str) -> Mapping[str, Lineage]:
    """Lines `NAME RENEWAL LIVE ARCHIVE`."""
    found: dict[str, Lineage] = {}
    for line in section.split("\n"):
        name, *words = line.split()[:_LINEAGE_WORDS] or [""]
        try:
            renewal, live, archive = map(Part, words)
        except ValueError:
            continue
        found[name] = Lineage(renewal, live, archive)
    return MappingProxyType(found)
