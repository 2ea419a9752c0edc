"""The verbs of a customer's server: `certpilot-agent.sh`, reached over SSH.

As root the script comes with us: it is kept at `/var/lib/certpilot/agent/SHA256.sh` and sent again only where that very
version is not there, so that a command costs one round trip. Any other user reaches the installed script by
`sudo -n` (deploy/customer-server); a forced command sees the same words.
"""

import hashlib
import re
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from contracts.codes import Code
from workers.core.model import Fence, JobId, Look, RunOutput, RunSpec, Server
from workers.edges.errors import (
    AgentBusyError,
    AgentFailedError,
    EdgeError,
    NoAnswerInTimeError,
    RunBusyError,
    StaleFenceError,
)
from workers.edges.server.agent_answer import (
    AGENT_VERSION,
    Answer,
    MalformedAnswerError,
    PlacedProbe,
    evidence_of,
    failure_code,
    look_of,
    number_of,
    parse_answer,
    run_output_of,
    start_words,
)
from workers.edges.server.agent_script import INSTALL, MISSING, MISSING_STATUS, RUN, script
from workers.edges.server.ssh import CommandResult, SshConnection

INSTALLED_SCRIPT = "/usr/local/sbin/certpilot-agent"
_VERB_TIMEOUT_SECONDS = 45.0  # 20 of them may be spent waiting for the agent's lock
_READING_TIMEOUT_SECONDS = 60.0  # a large nginx configuration, or several addresses that do not answer
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

_T = TypeVar("_T")


class ServerAgent:
    """One claim's view of a server: every command carries its fence.

    Every method raises
        EdgeError: the server could not be reached, refused, or could not do it; `sent` tells whether it may have run.
        StaleFenceError: a newer claim has been here.
    """

    def __init__(
        self, connection: SshConnection, server: Server, fence: Fence, *, eab_hmac_key: str | None = None
    ) -> None:
        """Speak over an open connection, which `close` closes.

        Args:
            connection: to that server.
            server: its username decides whether the script is sent or reached by sudo.
            fence: of the server's lease.
            eab_hmac_key: of the External Account Binding, base64url; for runs whose spec names its key id.
        """
        self._eab_hmac_key = eab_hmac_key
        self._connection = connection
        self._server = server
        self._fence = fence

    @property
    def alive(self) -> bool:
        """Whether the connection is up, as far as this side knows."""
        return self._connection.alive

    def close(self) -> None:
        """Close the connection; a certbot run that goes on does not notice."""
        self._connection.close()

    def look(self, job_id: JobId, attempt: int, cert_name: str | None = None) -> Look:
        """Ask for the state of an attempt and, read last, the certificate of the lineage.

        Args:
            job_id: the job.
            attempt: its newest attempt; 0 where it has none yet.
            cert_name: the lineage; None: no certificate is read.
        """
        return self._look("look", job_id, attempt, *([cert_name] if cert_name else []))

    def start(self, job_id: JobId, attempt: int, spec: RunSpec) -> Look:
        """Start certbot for the attempt, or attach to the run that it has or had; may be repeated.

        Raises:
            RunBusyError: another run of ours lives on the server; this attempt was not started.
        """
        stdin = None
        if spec.eab_kid and not spec.only_install:
            if self._eab_hmac_key is None:
                message = "The run takes an External Account Binding, and CERTPILOT_ACME_EAB_HMAC_KEY_FILE is not set here."
                raise EdgeError(Code.ACCOUNT_EAB_REQUIRED, message)
            stdin = self._eab_hmac_key.encode()
        return self._read(look_of, self.ask("start", job_id, attempt, *start_words(spec), stdin=stdin))

    def void(self, job_id: JobId, attempt: int) -> Look:
        """See to it that the attempt never starts; one that has started stays what it is."""
        return self._look("void", job_id, attempt)

    def stop(self, job_id: JobId, attempt: int) -> bool:
        """Ask the attempt's certbot to end (TERM); False where none of it lives."""
        return self.ask("stop", job_id, attempt).get("signalled") == "yes"

    def collect(self, job_id: JobId, attempt: int) -> RunOutput:
        """Fetch what the attempt's certbot printed and logged."""
        return self._read(run_output_of, self.ask("collect", job_id, attempt))

    def clean(self, job_id: JobId, attempt: int) -> None:
        """Remove the directories of the attempts 1 to `attempt`, all of them closed before this claim."""
        self.ask("clean", job_id, attempt)

    def probe(
        self,
        job_id: JobId,
        token: str,
        webroots: Sequence[str],
        *,
        timeout_seconds: float = _VERB_TIMEOUT_SECONDS,
    ) -> tuple[PlacedProbe, ...]:
        """Place `/.well-known/acme-challenge/TOKEN` in each directory; probes of older claims are taken away.

        Args:
            job_id: the job.
            token: 16 to 128 of `A-Za-z0-9_-`, drawn anew each time.
            webroots: absolute paths.
            timeout_seconds: for the answer; after it the files may still be placed.
        """
        words = [f"webroot={root}" for root in webroots]
        reasons = self.ask("probe", job_id, token, *words, timeout_seconds=timeout_seconds).all("webroot")
        if len(reasons) != len(webroots):
            raise self.malformed("probe")
        return tuple(
            PlacedProbe(root, reason == "placed", reason, f"{token}.{number}")
            for number, (root, reason) in enumerate(zip(webroots, reasons, strict=True), 1)
        )

    def unprobe(self, job_id: JobId, token: str) -> None:
        """Remove the probe, and the directories that were made for it."""
        self.ask("unprobe", job_id, token)

    def inspect(
        self,
        cert_names: Sequence[str] = (),
        *,
        failed_renewal_of: str | None = None,
        timeout_seconds: float = _READING_TIMEOUT_SECONDS,
    ) -> str:
        """Read the facts of the server, as `parse_server_facts` takes them; nothing is changed and no fence sent.

        Args:
            cert_names: the lineages to tell about.
            failed_renewal_of: the lineage whose last failed renewal is looked for in certbot's logs; a script that was
                installed before this could be asked is asked again without.
            timeout_seconds: what the server had said by then is the answer, a cut one, unless it was nothing at all.
        """
        try:
            result = self._inspect(cert_names, failed_renewal_of, timeout_seconds)
        except NoAnswerInTimeError as error:
            if parse_answer(error.said).version is None:
                raise
            return error.said.decode("utf-8", "replace")
        self._check(result, parse_answer(result.stdout))
        return result.stdout.decode("utf-8", "replace")

    def _inspect(
        self, cert_names: Sequence[str], failed_renewal_of: str | None, seconds: float
    ) -> CommandResult:
        until = time.monotonic() + seconds
        asked = (f"failure={failed_renewal_of}",) if failed_renewal_of else ()
        result = self._run("inspect", *cert_names, *asked, timeout_seconds=seconds)
        if asked and parse_answer(result.stdout).result == "USAGE":  # an older script takes it for a name
            result = self._run("inspect", *cert_names, timeout_seconds=max(0.0, until - time.monotonic()))
        return result

    def served(self, name: str) -> Mapping[str, bytes]:
        """Ask from the server itself what its port 443 shows for a name.

        Returns:
            For 127.0.0.1 and each address of the server the chain as PEM, leaf first; empty where none answered.
        """
        answer = self.read("served", name)
        chains = {name.removeprefix("served "): text for name, text in answer.sections.items()}
        return {address: f"{text}\n".encode() if text else b"" for address, text in chains.items()}

    def read(self, *words: str) -> Answer:
        """Send a verb that changes nothing; it needs no fence."""
        result = self._run(*words, timeout_seconds=_READING_TIMEOUT_SECONDS)
        return self._check(result, parse_answer(result.stdout))

    def _look(self, verb: str, job_id: JobId, attempt: int, *words: str) -> Look:
        return self._read(look_of, self.ask(verb, job_id, attempt, *words))

    def ask(
        self,
        verb: str,
        job_id: JobId,
        third: object,
        *words: str,
        timeout_seconds: float = _VERB_TIMEOUT_SECONDS,
        stdin: bytes | None = None,
    ) -> Answer:
        """Send a verb that passes the fence; `third` is the attempt or the token, `stdin` what no process list may show."""
        result = self._run(
            verb, str(self._fence), job_id, str(third), *words, timeout_seconds=timeout_seconds, stdin=stdin
        )
        return self._check(result, parse_answer(result.stdout))

    def _run(self, *words: str, timeout_seconds: float, stdin: bytes | None = None) -> CommandResult:
        if self._server.username != "root":
            return self._send(["sudo", "-n", INSTALLED_SCRIPT, *words], timeout_seconds, stdin=stdin)
        digest = hashlib.sha256(script()).hexdigest()
        argv = ["exec", "sh", "-c", RUN, "certpilot-agent", digest, *words]
        result = self._send(argv, timeout_seconds, stdin=stdin)
        if result.exit_status == MISSING_STATUS and result.stdout.endswith(MISSING):
            self._install(digest)
            result = self._send(argv, timeout_seconds, stdin=stdin)
        return result

    def _install(self, digest: str) -> None:
        argv = ["exec", "sh", "-c", INSTALL, "certpilot-agent", digest]
        result = self._send(argv, _VERB_TIMEOUT_SECONDS, stdin=script())
        if result.exit_status:
            said = evidence_of(result.stdout, result.stderr)
            words = " / ".join(said) or f"exit status {result.exit_status}"
            message = f"certpilot's script could not be stored on {self._server.host}: {words}."
            raise AgentFailedError(failure_code(words, Code.PERMISSION_DENIED), message, evidence=said)

    def _send(
        self, argv: Sequence[str], timeout_seconds: float, *, stdin: bytes | None = None
    ) -> CommandResult:
        if any(_CONTROL.search(word) for word in argv):  # a NUL would end the line early on the other side
            raise EdgeError(Code.INTERNAL, "An argument for certpilot's script holds a control character.")
        line = " ".join(shlex.quote(word) for word in argv)
        return self._connection.run(line, stdin=stdin, timeout_seconds=timeout_seconds)

    def _check(self, result: CommandResult, answer: Answer) -> Answer:
        """Give the answer where it is OK; everything else is raised."""
        said, host = evidence_of(result.stdout, result.stderr), self._server.host
        if answer.version is None:
            raise self._never_spoke(result, said)
        # A script that was installed before a verb was added answers so: what it knows still works.
        lacks_verb = answer.result == "USAGE" and answer.get("what") == "verb"
        if answer.version < AGENT_VERSION or lacks_verb:
            message = f"{INSTALLED_SCRIPT} on {host} is too old for this. Run install.sh of deploy/customer-server there again."
            raise EdgeError(Code.PERMISSION_DENIED, message, sent=True)
        match answer.result:
            case "OK":
                return answer
            case "STALE":
                raise StaleFenceError(self._fence, number_of(answer.get("fence")) or self._fence)
            case "BUSY":
                raise RunBusyError(Code.SERVER_BUSY, f"Another run of certpilot is at work on {host}.")
            case "AGENT_BUSY":
                raise AgentBusyError(Code.SERVER_BUSY, f"Another command holds certpilot's script on {host}.")
            case "ERROR":
                reasons = (answer.get("what") or "no reason given", *answer.all("cause"), *said)
                code = failure_code(" ".join(reasons), Code.FILESYSTEM_UNUSABLE)
                message = f"certpilot's script failed on {host}: {' / '.join(reasons)}."
                raise AgentFailedError(code, message, evidence=reasons, sent=True)
            case "USAGE":
                raise EdgeError(Code.INTERNAL, f"certpilot's script on {host} refused: {answer.get('what')}.")
            case None:
                code = failure_code(" ".join(said), Code.SERVER_UNREACHABLE)
                message = f"The answer of certpilot's script on {host} was cut."
                raise EdgeError(code, message, evidence=said, sent=True)
            case _:
                raise self.malformed(answer.result)

    def _never_spoke(self, result: CommandResult, said: tuple[str, ...]) -> EdgeError:
        """The script's first line did not come, so it did not run: sudo, the shell or the account stands before it."""
        who = f"{self._server.username}@{self._server.host}"
        command = "a command" if self._server.username == "root" else f"`sudo -n {INSTALLED_SCRIPT}`"
        words = " / ".join(said) or f"exit status {result.exit_status} without a word"
        code = failure_code(words, Code.PERMISSION_DENIED)
        return EdgeError(code, f"{who} could not run {command}: {words}.", evidence=said)

    def _read(self, reader: Callable[[Answer], _T], answer: Answer) -> _T:
        try:
            return reader(answer)
        except MalformedAnswerError as error:
            raise self.malformed(str(error)) from None

    def malformed(self, what: str) -> EdgeError:
        """The error of an answer that no version of the script gives."""
        return EdgeError(
            Code.INTERNAL, f"certpilot's script on {self._server.host} answered nonsense: {what}.", sent=True
        )
