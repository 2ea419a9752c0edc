"""The last step of a turn that went well: the server has to renew by itself (issue "Certificates never lapse")."""

from contracts.codes import Code
from workers import logs
from workers.core.lifetime.renewal import renew_before
from workers.core.model import Certificate, Problem
from workers.edges.errors import EdgeError, StaleFenceError
from workers.edges.server.upkeep import RenewalReport, ensure_renewal
from workers.runner.flights import Flight
from workers.runner.outcome import Remark

log = logs.get(__name__)


def keep_renewing(flight: Flight, certificate: Certificate, remark: Remark) -> Remark:
    """See to it that the server renews by itself; the certificate is there and served, so no trouble here fails the job.

    Args:
        flight: the job, connected.
        certificate: the one that is served.
        remark: what is told with the success already; its problem stays the one that is told.

    Raises:
        StaleFenceError: the job is somebody else's now.
    """
    assert flight.agent is not None
    name, host = flight.job.domain, flight.job.server.host
    try:
        report = ensure_renewal(flight.agent, flight.job_id, name, renew_before(certificate))
    except StaleFenceError:
        raise
    except EdgeError as error:
        log.warning("renewal.not_ensured", job=flight.job_id, server=host, reason=error.message)
        return remark
    problem, note = _told(report, host)
    return Remark(remark.problem or problem, f"{remark.note} {note}".strip())


def _told(report: RenewalReport, host: str) -> tuple[Problem | None, str]:
    if report.did == "none":
        message = f"Nothing on {host} renews its certificates, and neither a timer nor a crontab could be installed."
        return Problem(Code.AUTO_RENEW_MISSING, message), ""
    if report.cron_off:
        # No error: a cron by another name may run. Should none, the certificate gets overdue, and that is told.
        return None, f"The server renews it by {report.by}, if a cron daemon runs there; none was seen."
    words = {
        "found": "renews it by itself",
        "enabled": "renews it from now on",
        "installed": "renews it from now on",
    }
    return None, f"The server {words.get(report.did, 'renews it')} ({report.by})."
