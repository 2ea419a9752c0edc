"""The values that the core, the edges and the database exchange. Frozen; instants are timezone-aware UTC."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NewType

from contracts.codes import Code

JobId = NewType("JobId", str)
"""A UUID in its canonical text form; also the name of the job's directory on the server."""

Fence = NewType("Fence", int)
"""Grows with every claim of a server (PROTOCOL 1); the server refuses an older one."""


class SslStatus(StrEnum):
    """What a site has, as far as its visitors are concerned (DESIGN A.3)."""

    NONE = "none"
    PENDING = "pending"
    ACTIVE = "active"
    EXPIRED = "expired"


class JobState(StrEnum):
    """Where a job stands (DESIGN A.4)."""

    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    DEAD = "dead"
    CANCELLED = "cancelled"
    SUPERSEDED = "superseded"


class Step(StrEnum):
    """What a progress event can name (DESIGN A.2)."""

    QUEUED = "queued"
    CONNECTING = "connecting"
    PREFLIGHT = "preflight"
    REQUESTING = "requesting"
    INSTALLING = "installing"
    VERIFYING = "verifying"
    WAITING = "waiting"
    DONE = "done"
    FAILED = "failed"
    SUPERSEDED = "superseded"


@dataclass(frozen=True, slots=True)
class Server:
    """A customer's server as a command names it.

    Attributes:
        host: address or name that SSH connects to.
        port: SSH port.
        username: SSH user; anyone but root goes through `sudo -n`.
        host_key: the only key accepted, `TYPE BASE64`; None means the known_hosts file decides.
        public_addresses: where the public reaches the server, when SSH uses another address.
    """

    host: str
    port: int = 22
    username: str = "root"
    host_key: str | None = None
    public_addresses: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """The name of the server in leases and in `job.server_key`: one machine, whatever the user."""
        return f"server:{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Certificate:
    """The facts of one X.509 certificate that decisions need.

    Attributes:
        serial: lower-case hexadecimal, without leading zeros or colons.
        names: DNS names of the subject alternative name, lower-case, sorted.
        issuer: the issuer's common name, or its whole name where it has none.
        not_before: start of validity, UTC.
        not_after: end of validity, UTC.
    """

    serial: str
    names: tuple[str, ...]
    issuer: str
    not_before: datetime
    not_after: datetime


class RunState(StrEnum):
    """What the server says of one attempt (PROTOCOL 3)."""

    ABSENT = "ABSENT"
    ALIVE = "ALIVE"
    ENDED = "ENDED"
    DEAD = "DEAD"
    VOID = "VOID"


@dataclass(frozen=True, slots=True)
class Look:
    """The server's answer to LOOK, START and VOID.

    Attributes:
        run: state of the attempt asked about.
        exit_code: of an ENDED run; certbot's code says little (FACTS-certbot 4.1).
        begun: False where certbot was never started in a DEAD attempt.
        rebooted: the server rebooted since the attempt's directory was made.
        other_run: another run of ours lives on the server.
        certbot_busy: somebody holds certbot's own lock.
        certificate_pem: `live/NAME/cert.pem`, read last; None where there is none.
        stage: REQUESTING or INSTALLING while the run is ALIVE, by what certbot has printed so far; else None.
        out_of_memory: since an ENDED run began, the kernel has killed something for want of memory.
    """

    run: RunState
    exit_code: int | None = None
    begun: bool = True
    rebooted: bool = False
    other_run: bool = False
    certbot_busy: bool = False
    certificate_pem: bytes | None = None
    stage: Step | None = None
    out_of_memory: bool = False


class Authenticator(StrEnum):
    """How the challenge is answered on the server (DESIGN B.4)."""

    WEBROOT = "webroot"
    NGINX = "nginx"


@dataclass(frozen=True, slots=True)
class RunSpec:
    """What one certbot run is to do; the server's script builds the command line from it.

    Attributes:
        directory_url: the CA's ACME directory.
        email: contact for a new account, or None.
        cert_name: the lineage, the primary domain's A-label.
        names: every name of the certificate, the primary first.
        webroots: one directory per name, in the order of `names`; for WEBROOT certbot is told.
        authenticator: how challenges are answered.
        install: run the nginx installer (False: `certonly`).
        redirect: let the installer add the redirect from HTTP to HTTPS.
        force: renew although not due (exactly while the serial is still the one seen at admission).
        dry_run: against the staging CA, changing nothing.
        account: the ACME account's id where the server knows several.
        only_install: no order at all, `certbot install` (or enhance) of the lineage that is there.
        proxied: those of the job's names that are behind Cloudflare; the script is not told.
        key_type: rsa or ecdsa; None: certbot's default.
        profile: the CA's profile to prefer, or None.
        eab_kid: key id of the External Account Binding for a new account. A spec is stored, so its key is no part of it.
    """

    directory_url: str
    email: str | None
    cert_name: str
    names: tuple[str, ...]
    webroots: tuple[str, ...] = ()
    authenticator: Authenticator = Authenticator.NGINX
    install: bool = True
    redirect: bool = True
    force: bool = False
    dry_run: bool = False
    account: str | None = None
    only_install: bool = False
    proxied: tuple[str, ...] = ()
    key_type: str | None = None
    profile: str | None = None
    eab_kid: str | None = None


@dataclass(frozen=True, slots=True)
class RunOutput:
    """What a finished run left behind, each part cut to its last 256 KiB.

    Attributes:
        exit_code: None where there is none (killed, rebooted).
        stdout: certbot's standard output.
        stderr: certbot's standard error.
        debug_log: the part of certbot's debug log that this run wrote.
    """

    exit_code: int | None
    stdout: str
    stderr: str
    debug_log: str


class JobKind(StrEnum):
    """What the job was asked for; the path of the first two is the same."""

    ISSUE = "issue"
    RENEW = "renew"
    REMOVE = "remove"
    CLEANUP = "cleanup"
    """The same on a server that the site has left; never the site's newest job."""

    @property
    def removes(self) -> bool:
        """Whether it takes a certificate off a server."""
        return self in {JobKind.REMOVE, JobKind.CLEANUP}


@dataclass(frozen=True, slots=True)
class LiveJob:
    """The site's newest job, as admission needs it.

    Attributes:
        job_id: its id.
        state: its state; only queued, running and waiting are live, dead may be superseded.
        domain: the primary name.
        names: every name, the primary first.
        server_key: `Server.key` of its server.
        waits_on: the code that a waiting job waits for, else None.
        retry_at: when a waiting job goes on, UTC.
        paused: an operator paused its server, so a queued one waits too.
        kind: what it was asked for.
        attempt: certbot runs that it has counted; before the first, nothing of it is on the server.
    """

    job_id: JobId
    state: JobState
    domain: str
    names: tuple[str, ...]
    server_key: str
    waits_on: Code | None = None
    retry_at: datetime | None = None
    paused: bool = False
    kind: JobKind = JobKind.ISSUE
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class Site:
    """A site as the database has it, read under its row lock.

    Attributes:
        site_id: the site's id.
        domain: the stored primary name; None before the first accepted command.
        aliases: the stored further names.
        server: the stored server.
        ssl_status: the stored word; whether a certificate is valid is judged by its notAfter.
        certificate: the certificate last seen on the server and on the wire, or None.
        certificate_server_key: the server that certificate was seen on.
        ever_issued: whether certpilot ever saw a certificate for the site.
        job: the newest job, or None.
    """

    site_id: str
    domain: str | None
    aliases: tuple[str, ...]
    server: Server | None
    ssl_status: SslStatus
    certificate: Certificate | None
    certificate_server_key: str | None
    ever_issued: bool
    job: LiveJob | None


@dataclass(frozen=True, slots=True)
class Problem:
    """What went wrong, ready for an event: `error` of DESIGN A.2 before its `fix` is looked up.

    Attributes:
        code: of the catalogue.
        message: what was found, where, and what to do.
        names: the host names at fault, where it is about names.
        retry_at: when it is tried again.
        evidence: what else was seen.
        beside: the codes of what stands beside it, by who has looked for everything; None: nobody has.
    """

    code: Code
    message: str
    names: tuple[str, ...] = ()
    retry_at: datetime | None = None
    evidence: tuple[str, ...] = field(default=())
    beside: frozenset[Code] | None = None
