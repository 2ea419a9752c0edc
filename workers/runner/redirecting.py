"""The second step for names behind Cloudflare: a redirect to HTTPS where it does no harm (DESIGN B.5, FACTS-certbot 5.9).

Such names are issued without a redirect. Once the certificate is served, visitors' way through Cloudflare is looked at;
where Cloudflare reaches the server over HTTPS, an attempt that only installs puts the redirect in, by the same protocol
(the first attempt is closed and the next one counted in one transaction; the CA is asked for nothing). What has been
done stands in the last attempt's spec, so whoever takes the job over goes on from there.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from db import claims, outcomes
from db.claims import HeldJob
from db.outcomes import ClosedAttempt
from db.pool import OperationalError, Pool, transaction
from workers import announce, logs
from workers.core.model import Authenticator, Certificate, Look, RunSpec, Step
from workers.core.nginx.challenge import CHALLENGE_FOLDER
from workers.core.preflight.observed import Probe
from workers.core.preflight.redirects import RedirectPlan, plan_redirect
from workers.core.preflight.server import listed
from workers.edges.errors import EdgeError
from workers.edges.short_retry import with_short_retry
from workers.edges.web.http_probe import Prober
from workers.runner import outcome
from workers.runner.flights import Flight
from workers.runner.ledger import Ledger
from workers.runner.observe import new_token
from workers.runner.outcome import NOTHING, Remark
from workers.runner.spec_json import spec_from_json, spec_to_json

log = logs.get(__name__)

_LOOK_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class AfterServed:
    """What follows once the certificate is served.

    Attributes:
        look: the server's answer to the second step's START; None: there is none, the job is done.
        remark: what is told with its success.
    """

    look: Look | None = None
    remark: Remark = NOTHING


class Redirecting:
    """Takes the second step."""

    def __init__(self, db_pool: Pool, prober: Prober, ledger: Ledger) -> None:
        self._pool = db_pool
        self._prober = prober
        self._ledger = ledger

    def after_served(
        self, flight: Flight, certificate: Certificate, closed: ClosedAttempt | None
    ) -> AfterServed:
        """Look at what visitors get, and put the redirect in where that is right.

        Args:
            flight: the job, connected; its certificate is served for every name.
            certificate: that one.
            closed: how the open attempt ended; None where none is open.
        """
        spec = self._last_spec(flight)
        if spec is None or not spec.proxied:
            return AfterServed()
        plan = self._look(flight, spec)
        may_add = not spec.redirect and flight.job.superseded_by is None and not flight.job.cancel_requested
        if plan.add and may_add:
            look = self._start(flight, replace(_install(spec), names=plan.add), certificate, closed)
            return AfterServed(look)
        return AfterServed(remark=Remark(plan.problem, _note(not_added=plan.add, left_out=plan.left_out)))

    def _last_spec(self, flight: Flight) -> RunSpec | None:
        if flight.job.attempt == 0:
            return None
        with transaction(self._pool) as conn:
            return spec_from_json(outcomes.read_attempt(conn, flight.job).spec)

    def _look(self, flight: Flight, spec: RunSpec) -> RedirectPlan:
        names = flight.job.names
        visits = self._prober.follow_public(names, deadline_seconds=_LOOK_SECONDS)
        # Asked again after the second step: a name that stays without must be told at the end, not only before.
        folders = self._ask_for_folders(flight, spec)
        return plan_redirect(names, spec.proxied, visits=visits, folders=folders)

    def _ask_for_folders(self, flight: Flight, spec: RunSpec) -> Sequence[Probe]:
        """Through Cloudflare and over HTTPS; the folders lie in the roots that the preflight has proven."""
        if not spec.webroots:
            return ()
        root_of = dict(zip(flight.job.names, spec.webroots, strict=True))
        roots = sorted({root_of[name] for name in spec.proxied})
        assert flight.agent is not None
        token = new_token()
        try:
            flight.agent.probe(flight.job_id, token, roots)
            urls = [f"https://{name}{CHALLENGE_FOLDER}{token}.d" for name in spec.proxied]
            found = self._prober.first_answers(urls, deadline_seconds=_LOOK_SECONDS)
            flight.agent.unprobe(flight.job_id, token)
        except EdgeError as error:
            # The certificate is served; whether a redirect could stand is not worth a failure.
            log.warning("redirect.not_looked_at", job=flight.job_id, reason=error.message)
            return ()
        return found

    def _start(
        self, flight: Flight, spec: RunSpec, certificate: Certificate, closed: ClosedAttempt | None
    ) -> Look:
        before = flight.job.attempt
        flight.job = with_short_retry(
            lambda: self._count(flight, spec, certificate, closed, before), OperationalError
        )
        assert flight.agent is not None
        return flight.agent.start(flight.job_id, flight.job.attempt, spec)

    def _count(
        self,
        flight: Flight,
        spec: RunSpec,
        certificate: Certificate,
        closed: ClosedAttempt | None,
        before: int,
    ) -> HeldJob:
        """Close the attempt that brought the certificate and count the next. After a lost reply: RELOAD."""
        with transaction(self._pool) as conn:
            job = claims.hold(conn, flight.job.claim)
            if job.attempt_open and job.attempt == before + 1:
                return job
            payer = outcomes.read_attempt(conn, job).spec.get("payer")
            if closed is not None:
                self._ledger.settle(conn, job, closed, None)
                outcomes.close_and_go_on(conn, job, closed)
            outcomes.count_attempt(
                conn, job, serial_seen=certificate.serial, orders=False, spec={**spec_to_json(spec), "payer": payer}
            )  # fmt: skip
            job = claims.hold(conn, flight.job.claim)
            message = "Cloudflare reaches the server over HTTPS; adding the redirect to HTTPS."
            announce.progress(conn, outcome.about(job), Step.INSTALLING, message, attempt=job.attempt)
        return job


def _install(spec: RunSpec) -> RunSpec:
    return replace(
        spec, only_install=True, redirect=True, force=False, dry_run=False, authenticator=Authenticator.NGINX
    )


def _note(*, not_added: Sequence[str], left_out: Sequence[str]) -> str:
    notes = []
    if not_added:
        notes.append(f"The redirect to HTTPS could not be put in for {listed(not_added)}.")
    if left_out:
        notes.append(
            f"No redirect to HTTPS was put in for {listed(left_out)}: how Cloudflare reaches the server could not be told."
            " Turn on Always Use HTTPS in Cloudflare."
        )
    return " ".join(notes)
