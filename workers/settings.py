"""The settings: environment variables with the prefix CERTPILOT_, typed, one message per wrong value (DESIGN A.6)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, ValidationInfo
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

PREFIX = "CERTPILOT_"
_LARGEST_PORT = 65535
_PASSWORD = re.compile(r"(://[^/@:,]*):[^/,]*@")
_QUERY_PASSWORD = re.compile(r"(password=)[^&]*")
_BASE64URL = re.compile(r"[A-Za-z0-9_-]{16,512}")
LETS_ENCRYPT = "https://acme-v02.api.letsencrypt.org/directory"
LETS_ENCRYPT_STAGING = "https://acme-staging-v02.api.letsencrypt.org/directory"


class SettingsError(Exception):
    """A setting has a wrong value; the message names each one and says what is accepted."""


@dataclass(frozen=True, slots=True)
class HostPort:
    """An address to listen on or to ask; port 0 means any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse_host_port(text: str) -> HostPort:
    """Read `host:port` or `[v6]:port`.

    Raises:
        ValueError: it is neither.
    """
    host, colon, port = text.strip().rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > _LARGEST_PORT:
        raise ValueError(f"expected host:port, for example 127.0.0.1:9300, got {text!r}")
    return HostPort(host.strip("[]"), int(port))


def _blank_is_unset(value: Any) -> Any:
    return None if isinstance(value, str) and not value.strip() else value


def _paths(value: Any) -> Any:
    if isinstance(value, str):
        return tuple(Path(part).expanduser() for part in value.split(":") if part)
    return value


def _path(value: Any) -> Any:
    value = _blank_is_unset(value)
    return Path(value).expanduser() if isinstance(value, str) else value


def _host_ports(value: Any) -> Any:
    value = _blank_is_unset(value)
    return tuple(parse_host_port(part) for part in value.split(",")) if isinstance(value, str) else value


def _host_port(value: Any) -> Any:
    value = _blank_is_unset(value)
    return parse_host_port(value) if isinstance(value, str) else value


def _url(*schemes: str) -> BeforeValidator:
    def check(value: Any) -> Any:
        value = _blank_is_unset(value)
        if isinstance(value, str) and (urlsplit(value).scheme not in schemes):
            raise ValueError(f"expected a URL that begins with {' or '.join(s + '://' for s in schemes)}")
        return value

    return BeforeValidator(check)


def _with_kid(value: Path | None, info: ValidationInfo) -> Path | None:
    if (value is None) != (info.data.get("acme_eab_kid") is None):
        raise ValueError("an External Account Binding takes both this and CERTPILOT_ACME_EAB_KID, or neither")
    return value


class Settings(BaseSettings):
    """Everything that can be set. What needs no choice has a default that works."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="ignore", arbitrary_types_allowed=True
    )

    rabbitmq_url: Annotated[str, _url("amqp", "amqps")] = Field(
        "amqp://guest:guest@127.0.0.1:5672/%2F", description="The broker; amqps:// for TLS."
    )
    database_url: Annotated[str, _url("postgresql", "postgres")] = Field(
        "postgresql:///certpilot", description="PostgreSQL; TLS by sslmode in the URL."
    )
    acme_directory_url: Annotated[str, _url("https", "http")] = Field(
        LETS_ENCRYPT, description="ACME directory of the CA."
    )
    acme_staging_directory_url: Annotated[str | None, _url("https", "http")] = Field(
        None, description="ACME directory for dry runs; Let's Encrypt's own for Let's Encrypt, else none."
    )
    acme_email: Annotated[str | None, BeforeValidator(_blank_is_unset)] = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._%+=-]*@[A-Za-z0-9][A-Za-z0-9-]*(\.[A-Za-z0-9-]+)+$",
        description="E-mail address, contact of the ACME account; unset: registered without.",
    )
    acme_profile: Annotated[str | None, BeforeValidator(_blank_is_unset)] = Field(
        None,
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9_-]{0,127}$",
        description="Profile to prefer, of those that the CA offers; for servers with certbot 4.0 or newer. Unset: the CA's default.",
    )
    acme_eab_kid: Annotated[str | None, BeforeValidator(_blank_is_unset)] = Field(
        None,
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9_-]{0,127}$",
        description="Key id of the External Account Binding, where the CA wants one; also used at the staging directory.",
    )
    acme_eab_hmac_key_file: Annotated[Path | None, BeforeValidator(_path), AfterValidator(_with_kid)] = Field(
        None,
        validate_default=True,
        description="File with the HMAC key of the External Account Binding, base64url as the CA gave it.",
    )
    key_type: Annotated[Literal["rsa", "ecdsa"] | None, BeforeValidator(_blank_is_unset)] = Field(
        None, description="Key of the certificates, rsa or ecdsa; unset: certbot's default."
    )
    ssh_private_key_file: Annotated[tuple[Path, ...], NoDecode, BeforeValidator(_paths)] = Field(
        (Path("~/.ssh/id_ed25519").expanduser(),), description="One or more private keys, separated by ':'."
    )
    ssh_known_hosts_file: Annotated[Path | None, BeforeValidator(_path)] = Field(
        Path("~/.ssh/known_hosts").expanduser(), description="Host keys of servers whose command brings none."
    )
    dns_servers: Annotated[tuple[HostPort, ...] | None, NoDecode, BeforeValidator(_host_ports)] = Field(
        None, description="host:port,… to ask for public DNS; unset: the system's."
    )
    tls_ca_file: Annotated[Path | None, BeforeValidator(_path)] = Field(
        None, description="Extra roots to trust when checking what a site serves."
    )
    ca_limits_file: Annotated[Path | None, BeforeValidator(_path)] = Field(
        None,
        description="Limits of the CA; unset: Let's Encrypt's published figures for its own directories.",
    )
    log_format: Literal["console", "json"] = Field("console", description="console or json.")
    metrics_addr: Annotated[HostPort | None, NoDecode, BeforeValidator(_host_port)] = Field(
        None, description="host:port of the Prometheus endpoint; port 0: any free one; unset: off."
    )
    runner_threads: Annotated[int, Field(ge=1, le=256)] = Field(
        8,
        description="Jobs that one runner process begins or ends at the same time (running ones hold no thread).",
    )
    preflight_seconds: Annotated[float, Field(ge=2, le=60)] = Field(
        3.0,
        description="All checks before an order together end within this; what has not answered by then is unsure and blocks nothing.",
    )
    run_deadline_seconds: Annotated[int, Field(ge=60, le=7200)] = Field(
        1200, description="After this long a certbot run is asked to stop (TERM, never KILL)."
    )
    stop_seconds: Annotated[int, Field(ge=1, le=600)] = Field(
        25,
        description="How long a role may take to stop after SIGTERM; keep it under the service manager's limit.",
    )

    @property
    def staging_url(self) -> str | None:
        """The directory that dry runs use; None: none are made, since --dry-run would spend the same CA's limits."""
        if self.acme_staging_directory_url is not None:
            return self.acme_staging_directory_url
        return LETS_ENCRYPT_STAGING if self.acme_directory_url == LETS_ENCRYPT else None


def load() -> Settings:
    """Read the environment.

    Raises:
        SettingsError: a value is wrong.
    """
    try:
        return Settings()
    except ValidationError as error:
        problems = [_sentence(detail) for detail in error.errors(include_url=False, include_context=False)]
        raise SettingsError("\n".join(problems)) from None


def eab_hmac_key(config: Settings) -> str | None:
    """Read the key of the External Account Binding; None where none is set.

    Raises:
        SettingsError: the file cannot be read or holds no such key; the message does not repeat what it holds.
    """
    if config.acme_eab_hmac_key_file is None:
        return None
    name = PREFIX + "ACME_EAB_HMAC_KEY_FILE"
    try:
        key = config.acme_eab_hmac_key_file.read_text("utf-8").strip().rstrip("=")
    except OSError as error:
        raise SettingsError(f"{name}: {error}") from None
    except UnicodeDecodeError:
        key = ""
    if not _BASE64URL.fullmatch(key):
        raise SettingsError(f"{name}: expected one line of base64url (A-Z a-z 0-9 - _), 16 to 512 characters")
    return key


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """Variables with our prefix that are no setting, most often a typing error.

    They are shown and do not stop the start: Kubernetes sets CERTPILOT_SERVICE_HOST and the like beside a Service of
    our name.
    """
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    return sorted(name for name in environment if name.startswith(PREFIX) and name not in known)


def _sentence(detail: Any) -> str:
    name = PREFIX + str(detail["loc"][0]).upper()
    accepted = Settings.model_fields[str(detail["loc"][0])].description
    return f"{name}: {detail['msg'].removeprefix('Value error, ')} ({accepted})"


def describe(settings: Settings) -> list[tuple[str, str, str]]:
    """Name, value and meaning of every setting, with passwords in URLs hidden; for `certpilot config`."""
    return [
        (PREFIX + name.upper(), _shown(getattr(settings, name)), field.description or "")
        for name, field in Settings.model_fields.items()
    ]


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, tuple):
        separator = ":" if value and isinstance(value[0], Path) else ","
        return separator.join(map(str, value))
    return without_password(str(value))


def without_password(url: str) -> str:
    """Hide the passwords of a URL, or of several separated by commas; other text stays as it is."""
    return _QUERY_PASSWORD.sub(r"\1***", _PASSWORD.sub(r"\1:***@", url))
