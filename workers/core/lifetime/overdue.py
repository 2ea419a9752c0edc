"""Why a server has not renewed a certificate that is overdue: nothing there renews, or what its last try logged."""

import re
from collections.abc import Iterable

from contracts.codes import Code
from workers.core.lifetime.auto_renew import check_auto_renew
from workers.core.model import Problem
from workers.core.preflight.model import Observations, Verdict
from workers.core.reading import Finding, Stage, read_text

_HAS_NOT = "The server should have renewed the certificate by now, and has not."
_MOST_WORDS = 300
_MOST_FOLDERS = 3
# What stands before the reason in a line of certbot's log: time, level and logger; which certificate; the exception's class.
_BEFORE_THE_REASON = re.compile(
    r"(?:\d{4}-\d\d-\d\d [\d:,]+:[A-Z]+:[\w.]+:)?(?:Failed to renew certificate \S+ with error: )?(?:\w+(?:\.\w+)+: |Detail: +)?"
)
# The catalogue's words are about what certpilot needs: its nginx plugin.
_OF_A_RENEWAL_FILE = {
    Code.CERTBOT_PLUGIN_MISSING: "its renewal file names a plugin that certbot there does not have.",
}
_PLACED = re.compile(r"Attempting to save validation to (/.*)/\.well-known/acme-challenge/")


def why_overdue(o: Observations) -> Problem:
    """Say why the server has not renewed by itself.

    Returns:
        AUTO_RENEW_MISSING where nothing there renews, or AUTO_RENEW_FAILING: with the cause and the lines that prove it
        where certbot's last try for this certificate failed and was logged (`failed_renewal` of the facts).
    """
    schedule = check_auto_renew(o)
    if schedule.code is Code.AUTO_RENEW_MISSING:
        return Problem(Code.AUTO_RENEW_MISSING, schedule.message)
    if o.facts.failed_renewal.strip():
        return _of_last_try(o.facts.failed_renewal)
    if schedule.verdict is Verdict.FAIL:
        return Problem(Code.AUTO_RENEW_FAILING, schedule.message)
    return Problem(Code.AUTO_RENEW_FAILING, f"{_HAS_NOT} {schedule.message}")


def _of_last_try(log: str) -> Problem:
    """What the log of a failed try means. The exit code of such a run is 1, whatever it says."""
    finding = read_text(log, exit_code=1).main
    evidence = tuple(line.text for line in finding.evidence)
    parts = [
        _HAS_NOT,
        "Its last try failed" + _because(finding),
        _where(finding, log),
        _in_its_words(evidence),
    ]
    return Problem(Code.AUTO_RENEW_FAILING, " ".join(filter(None, parts)), evidence=evidence)


def _because(finding: Finding) -> str:
    """The reader's sentence; it has none for what it does not know."""
    if finding.code is None or finding.code is Code.INTERNAL:
        return "."
    return f": {_OF_A_RENEWAL_FILE.get(finding.code, finding.message)}"


def _where(finding: Finding, log: str) -> str:
    """The folders into which certbot put the CA's files, where the site shows something else: nothing else names a wrong path."""
    folders = tuple(dict.fromkeys(_PLACED.findall(log)))
    if finding.code is not Code.CHALLENGE_FAILED or finding.step is not Stage.CHALLENGE or not folders:
        return ""
    more = " and others" if len(folders) > _MOST_FOLDERS else ""
    return f"certbot put the file for the check into {', '.join(folders[:_MOST_FOLDERS])}{more}."


def _in_its_words(evidence: Iterable[str]) -> str:
    """The last of the deciding lines that says something: a sentence of ours is of a kind, this is the case."""
    said = [text for line in evidence if (text := _BEFORE_THE_REASON.sub("", line, count=1).strip(" .,'\"^"))]
    return f'Its log says: "{said[-1][:_MOST_WORDS]}".' if said else ""
