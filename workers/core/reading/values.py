"""What the reader gives back, and the rows that its tables are made of."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum, StrEnum
from types import MappingProxyType

from contracts.catalogue import CATALOGUE
from contracts.codes import Code, Mender, Retry


class Stage(StrEnum):
    """The chain of steps of one run, in its order: the first that failed decides, the later ones are consequences."""

    REACH = "reach"  # SSH, before anything ran
    START = "start"  # shell, sudo, Python's imports, locks, log files
    PLUGIN = "plugin"  # plugins and their reading of nginx's configuration
    ACCOUNT = "account"
    ORDER = "order"
    CHALLENGE = "challenge"
    FINALIZE = "finalize"
    SAVE = "save"
    INSTALL = "install"
    RELOAD = "reload"
    HOOK = "hook"
    SCHEDULE = "schedule"  # the server's own renewal: timer, cron
    SERVE = "serve"  # what visitors get


STAGE_ORDER: Mapping[Stage, int] = MappingProxyType({stage: place for place, stage in enumerate(Stage)})
"""Each stage's place in the chain, from 0."""


class Weight(IntEnum):
    """How much a text says about the cause."""

    BACKGROUND = (
        1  # harmless by itself; explains a failure that is there, or decides where nothing else was said
    )
    CONSEQUENCE = 2  # something failed, and this is not why
    CRASH = 3  # a program died: the cause, unless a cause was told before it
    CAUSE = 4


class Scope(StrEnum):
    """Whose fault a code is, which decides the names of a finding."""

    HOST = "host"  # the names that the text itself puts at fault
    LINEAGE = "lineage"  # the certificate whose settings or files are at fault
    MACHINE = "machine"  # the server, the CA or the account: no name is at fault


_LINEAGE = (
    Code.CERTBOT_PLUGIN_MISSING,
    Code.PORT_80_IN_USE,
    Code.LINEAGE_BROKEN,
    Code.INSTALL_FAILED,
    Code.INTERNAL,
    Code.NOT_SERVED,
)
_MACHINE = (
    Code.CA_UNAVAILABLE,
    Code.CA_UNREACHABLE,
    Code.SERVER_BUSY,
    Code.SERVER_UNREACHABLE,
    Code.SSH_AUTH_FAILED,
    Code.HOST_KEY_MISMATCH,
    Code.PERMISSION_DENIED,
    Code.CERTBOT_MISSING,
    Code.CERTBOT_BROKEN,
    Code.CERTBOT_OUTDATED,
    Code.NGINX_MISSING,
    Code.NGINX_CONFIG_UNREADABLE,
    Code.NGINX_RELOAD_FAILED,
    Code.CLOCK_SKEW,
    Code.INTERRUPTED,
    Code.DISK_FULL,
    Code.FILESYSTEM_UNUSABLE,
    Code.OUT_OF_MEMORY,
    Code.AUTO_RENEW_MISSING,
    Code.AUTO_RENEW_FAILING,
    Code.ACCOUNT_INVALID,
    Code.ACCOUNT_CONTACT_INVALID,
    Code.ACCOUNT_EAB_REQUIRED,
)
SCOPES: Mapping[Code, Scope] = MappingProxyType(
    dict.fromkeys(Code, Scope.HOST)
    | dict.fromkeys(_LINEAGE, Scope.LINEAGE)
    | dict.fromkeys(_MACHINE, Scope.MACHINE)
)
"""A failed renewal line names a lineage also when the CA or the whole server is at fault: only LINEAGE codes take it."""

_RETRY_OF_MENDER: Mapping[Mender, Retry] = MappingProxyType(
    {
        Mender.REQUESTER: Retry.NEVER,
        Mender.OWNER: Retry.OWNER_FIX,
        Mender.TIME: Retry.SOON,
        Mender.SERVER_ADMIN: Retry.SERVER_ADMIN,
        Mender.OPERATOR: Retry.SERVER_ADMIN,
        Mender.NOBODY: Retry.NEVER,
    }
)


def usual_retry(code: Code) -> Retry:
    """Give the retry word of a code where nothing in the text says otherwise (DESIGN A.7).

    A killed run is simply run again; a wildcard order has to be changed by whoever calls certbot.
    """
    if code is Code.TOO_MANY_REQUESTS:
        return Retry.WAIT_UNTIL
    if code is Code.INTERRUPTED:
        return Retry.SOON
    if code is Code.WILDCARD_NEEDS_DNS:
        return Retry.SERVER_ADMIN
    return _RETRY_OF_MENDER[CATALOGUE[code].mender]


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of text: adding a kind is adding one of these, and one case file.

    Attributes:
        phrases: the texts, in the small language of `workers.core.reading.phrases`; any of them makes a hit.
        code: what it means.
        stage: the step of the chain it happens in.
        source: the fact or the source that says so.
        retry: the retry word, where it is not the usual one of the code.
        weight: whether it is the cause.
        needs: squeezed texts that must all be somewhere in the same run.
        unless: squeezed texts that must not be in the same run.
        line: the text must begin a line.
        whole: the text must be a whole line.
        says: what happened, where the catalogue's words would mislead.
        fix: what to do, where the catalogue's words would mislead.
        explains: codes that this text is the cause of, for BACKGROUND rows.
        not_that: what it looks like and is not, for the list of what was ruled out.
    """

    phrases: tuple[str, ...]
    code: Code
    stage: Stage
    source: str
    retry: Retry | None = None
    weight: Weight = Weight.CAUSE
    needs: tuple[str, ...] = ()
    unless: tuple[str, ...] = ()
    line: bool = False
    whole: bool = False
    says: str = ""
    fix: str = ""
    explains: tuple[Code, ...] = ()
    not_that: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """The rows of one speaker.

    Attributes:
        speaker: who says these texts.
        gates: squeezed texts of which one must be there for the speaker to have spoken; empty: always looked for.
        rows: the kinds.
    """

    speaker: str
    gates: tuple[str, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Hit:
    """One place where a row, or a reading by structure, says something.

    Attributes:
        row: the row.
        start: where in the squeezed text it begins.
        end: where it ends.
        names: the names that the text itself shows at fault.
        retry_at: the CA's own time, UTC.
        retry: overrides the row's retry word.
        stage: overrides the row's stage, where the context says so.
        code: overrides the row's code, where the context says so.
        weight: overrides the row's weight.
        lineage: the certificate name that the text is about.
        speaker: who said it.
    """

    row: Row
    start: int
    end: int
    names: tuple[str, ...] = ()
    retry_at: datetime | None = None
    retry: Retry | None = None
    stage: Stage | None = None
    code: Code | None = None
    weight: Weight | None = None
    lineage: str | None = None
    speaker: str = ""

    @property
    def the_code(self) -> Code:
        """The code, context included."""
        return self.code or self.row.code

    @property
    def the_stage(self) -> Stage:
        """The stage, context included."""
        return self.stage or self.row.stage

    @property
    def the_weight(self) -> Weight:
        """The weight, context included."""
        return self.weight or self.row.weight

    @property
    def the_retry(self) -> Retry:
        """The retry word: of the context, of the row, or the code's usual one."""
        return self.retry or self.row.retry or usual_retry(self.the_code)


@dataclass(frozen=True, slots=True)
class Evidence:
    """One line that decided.

    Attributes:
        line_number: its number in the text that was read, from 1.
        text: the line as it stands there, without terminal colours.
    """

    line_number: int
    text: str


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that failed, or that nothing failed.

    Attributes:
        code: the code; None where nothing failed.
        names: the host names at fault, where the text shows them.
        retry: when trying again makes sense; None where nothing failed.
        retry_at: the time that the CA states, UTC.
        message: what happened, in plain words.
        fix: what to do, in the words of whoever mends it.
        evidence: the lines that decided.
        ruled_out: what the text also shows and why that is not it.
        step: the step of the chain that failed; None where nothing failed or none can be told.
    """

    code: Code | None
    names: tuple[str, ...]
    retry: Retry | None
    retry_at: datetime | None
    message: str
    fix: str
    evidence: tuple[Evidence, ...]
    ruled_out: tuple[str, ...] = ()
    step: Stage | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """What a text means.

    Attributes:
        findings: at least one; the most blocking first.
    """

    findings: tuple[Finding, ...] = field()

    @property
    def main(self) -> Finding:
        """The finding that decides what follows."""
        return self.findings[0]
