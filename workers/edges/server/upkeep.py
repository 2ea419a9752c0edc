"""The verbs of a customer's server beside certbot's runs: taking a certificate away, and its own renewals."""

from dataclasses import dataclass
from datetime import timedelta

from workers.core.certificate import CertificateUnreadableError, certificate_from_pem
from workers.core.model import Certificate, JobId, RunOutput
from workers.edges.server.agent import ServerAgent
from workers.edges.server.agent_answer import MalformedAnswerError

_REMOVE_TIMEOUT_SECONDS = 180.0
"""20 for the agent's lock, 40 for nginx, 60 each for certbot's revoke and delete; mostly it takes two."""

_DAY = timedelta(days=1)
_HOUR = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class RemovalReport:
    """What became of a removal.

    Attributes:
        failed: the step that failed (nginx, edit, revoke, delete); None: all is done.
        output: what that step printed.
        edited: how many of nginx's files were changed.
        revoked: yes, already, expired, no (there was no certificate), or None where it was not asked for.
        lineage: whether there was one to delete.
    """

    failed: str | None
    output: RunOutput
    edited: int
    revoked: str | None
    lineage: bool


@dataclass(frozen=True, slots=True)
class RenewalReport:
    """How the server renews by itself.

    Attributes:
        did: found, enabled, installed, or none: nothing renews here, and nothing could be installed.
        by: the systemd unit or crontab that does.
        cron_off: it is a crontab, and no cron daemon runs.
    """

    did: str
    by: str
    cron_off: bool


def remove_lineage(agent: ServerAgent, job_id: JobId, name: str, *, revoke: bool) -> RemovalReport:
    """Take the lineage out of nginx, which keeps a working HTTP vhost, revoke it if asked, delete it; may be repeated.

    Args:
        agent: of the claim.
        job_id: the job.
        name: the lineage.
        revoke: also revoke the certificate at its CA, unless it has expired.

    Raises:
        EdgeError: as for every verb; `RunBusyError` while a run of ours lives.
    """
    words = (name, "revoke=yes") if revoke else (name,)
    answer = agent.ask("remove", job_id, 0, *words, timeout_seconds=_REMOVE_TIMEOUT_SECONDS)
    failed = answer.get("failed")
    if failed is None and answer.get("removed") != "yes":
        raise agent.malformed("remove")
    try:
        output = RunOutput(None, answer.decoded("out"), answer.decoded("err"), "")
    except MalformedAnswerError as error:
        raise agent.malformed(str(error)) from None
    return RemovalReport(
        failed=failed,
        output=output,
        edited=int(answer.get("edited") or 0),
        revoked=answer.get("revoked"),
        lineage=answer.get("lineage") == "removed",
    )


def ensure_renewal(agent: ServerAgent, job_id: JobId, name: str, before: timedelta | None) -> RenewalReport:
    """See to it that the server renews by itself, with nginx reloaded after it; may be repeated.

    Args:
        agent: of the claim.
        job_id: the job.
        name: the lineage.
        before: how long before its expiry this lineage is to be renewed; None: certbot's own rule is good.

    Raises:
        EdgeError: as for every verb.
    """
    words = (name,) if before is None else (name, f"before={_as_words(before)}")
    answer = agent.ask("renewal", job_id, 0, *words)
    return RenewalReport(answer.get("did") or "none", answer.get("renews") or "", answer.get("cron") == "off")


@dataclass(frozen=True, slots=True)
class Lineage:
    """A certificate that certbot renews on a server.

    Attributes:
        name: certbot's name of it.
        authenticator: how its challenge is answered; empty where its renewal file does not say.
        certificate: the certificate; None where its file cannot be read.
    """

    name: str
    authenticator: str
    certificate: Certificate | None


def read_lineages(agent: ServerAgent) -> tuple[Lineage, ...]:
    """Every lineage of the server; nothing is changed.

    Raises:
        EdgeError: as for every verb.
    """
    answer = agent.read("lineages")
    found = []
    for line in answer.all("lineage"):
        name, _, authenticator = line.partition(" ")
        pem = answer.sections.get(f"certificate {name}", "")
        try:
            certificate = certificate_from_pem(f"{pem}\n".encode())
        except CertificateUnreadableError:
            certificate = None
        found.append(Lineage(name, authenticator, certificate))
    return tuple(found)


def _as_words(before: timedelta) -> str:
    """In the largest unit that certbot's configuration knows and that loses little, rounded down."""
    if before >= 2 * _DAY:
        return f"{before // _DAY}-days"
    if before >= 2 * _HOUR:
        return f"{before // _HOUR}-hours"
    return f"{max(1, int(before.total_seconds()))}-seconds"
