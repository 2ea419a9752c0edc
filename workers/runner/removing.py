"""The turn of a job that takes a certificate off a server: kinds `remove` and `cleanup`.

There is nothing to attach to: the script does it in one command that may be repeated, so whoever takes the job over
begins anew behind a newer fence.
"""

from dataclasses import replace

from contracts.codes import Code
from contracts.titles import REMOVAL
from db import claims, sites
from db.pool import OperationalError, Pool, transaction
from workers.core.certificate import CertificateUnreadableError, certificate_from_pem
from workers.core.deciding import lifecycle
from workers.core.model import JobKind, Problem, Site
from workers.core.reading import read_run
from workers.edges.server.upkeep import RemovalReport, remove_lineage
from workers.edges.short_retry import with_short_retry
from workers.runner import outcome
from workers.runner.ending import Endings
from workers.runner.flights import Flight
from workers.runner.wire import shown_serial

_CODES = {
    "nginx": Code.NGINX_CONFIG_BROKEN,
    "edit": Code.INSTALL_FAILED,
    "revoke": Code.CA_UNAVAILABLE,
    "delete": Code.LINEAGE_BROKEN,
}
"""Of a step whose output says nothing that the reader knows."""

_FAILURES = {
    "nginx": "nginx refuses its configuration, so the certificate was left in it.",
    "edit": "The certificate could not be taken out of nginx's configuration; the old files are back.",
    "revoke": "The certificate authority did not revoke the certificate.",
    "delete": "certbot did not delete the certificate's files.",
}


class Removing:
    """Takes certificates away."""

    def __init__(self, db_pool: Pool, endings: Endings) -> None:
        self._pool = db_pool
        self._endings = endings

    def turn(self, flight: Flight) -> bool:
        """Remove and end; the connection is open.

        Returns:
            False: the job is in nobody's hands any more.
        """
        job = flight.job
        if job.superseded_by is not None or job.cancel_requested:
            self._endings.unwanted(flight)
            return False
        stays_for = self._in_use(flight)
        if stays_for is not None:
            self._done(flight, f"{REMOVAL}the certificate stays on {job.server.host}: {stays_for}.")
            return False
        assert flight.agent is not None
        report = remove_lineage(flight.agent, flight.job_id, job.domain, revoke=job.revoke)
        if report.failed is None:
            self._done(flight, _told(report, job.domain, job.server.host))
        else:
            self._endings.problem(flight, _problem(report, report.failed))
        return False

    def _in_use(self, flight: Flight) -> str | None:
        """Why the lineage has to stay where it is; None: it may go."""
        job = flight.job
        # A site that has left the server may be back, before its old lineage there was cleaned up.
        gives_up = job.site_id if job.kind is JobKind.REMOVE else None
        with transaction(self._pool) as conn:
            shared_with = sites.sharing_lineage(conn, job.domain, job.server, but=gives_up)
            site = sites.lock(conn, job.site_id)
        if shared_with is not None:
            return f"site {shared_with} uses it"
        if job.kind is JobKind.CLEANUP and self._is_the_sites(flight, site):
            return "it is the one that the site is served with now, by another address of the same server"
        return None

    def _is_the_sites(self, flight: Flight, site: Site) -> bool:
        """Whether the site has moved to another address or SSH port of the machine that it was on.

        Its lineage then has the serial that was seen last, or the one that is shown at the new address.
        """
        job, own = flight.job, lifecycle.own_certificate_of(site)
        if own is None or site.server is None or site.server.key == job.server_key:
            return False
        assert flight.agent is not None
        pem = flight.agent.look(flight.job_id, 0, job.domain).certificate_pem
        try:
            serial = certificate_from_pem(pem).serial if pem else None
        except CertificateUnreadableError:
            return False
        return serial is not None and serial in {own.serial, shown_serial(site.server, job.domain)}

    def _done(self, flight: Flight, message: str) -> None:
        def write() -> None:
            with transaction(self._pool) as conn:
                outcome.removed(conn, claims.hold(conn, flight.job.claim), message)

        with_short_retry(write, OperationalError)


def _told(report: RemovalReport, name: str, host: str) -> str:
    if not report.lineage and not report.edited:
        return f"{REMOVAL}there was no certificate for {name} on {host} any more."
    revoked = {"yes": " and revoked", "already": "; it was revoked before", "expired": "; it had expired"}
    return (
        f"{REMOVAL}the certificate for {name} was deleted on {host}{revoked.get(report.revoked or '', '')}."
    )


def _problem(report: RemovalReport, step: str) -> Problem:
    # Whatever ended the step, the script saw it end: a run without an exit code would be one that was killed.
    finding = read_run(replace(report.output, exit_code=1)).main
    evidence = tuple(line.text for line in finding.evidence) or tuple(report.output.stderr.splitlines()[-3:])
    code = finding.code if finding.code not in {None, Code.INTERNAL} else None
    said = f" {finding.message}" if code is not None else f" {evidence[-1]}" if evidence else ""
    return Problem(
        code or _CODES.get(step, Code.INTERNAL),
        _FAILURES.get(step, "The certificate could not be removed.") + said,
        evidence=evidence,
    )
