"""The agent's side of the dialogue, read: lines, sections, result. Pure; the script's head describes the form."""

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from contracts.codes import Code
from workers.core.model import Authenticator, Look, RunOutput, RunSpec, RunState, Step

AGENT_VERSION = 1
"""The dialogue spoken here; the script's first line says its own. Raise both where they no longer fit together."""

_MAX_DIGITS = 18
_MAX_EVIDENCE_LINES = 8
_FAILURES = (
    ("no space left on device", Code.DISK_FULL),
    ("disk quota exceeded", Code.DISK_FULL),
    ("cannot allocate memory", Code.OUT_OF_MEMORY),
    ("cannot fork", Code.OUT_OF_MEMORY),
    ("read-only file system", Code.FILESYSTEM_UNUSABLE),
    ("input/output error", Code.FILESYSTEM_UNUSABLE),
)


class MalformedAnswerError(ValueError):
    """The agent answered something that its version never says."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of the agent.

    Attributes:
        version: of the dialogue, from the line `agent=`; None where the script never spoke.
        lines: `key=value` in their order, without `agent` and `result`.
        sections: text of each section by its name, lines joined by line breaks.
        result: OK, BUSY, AGENT_BUSY, STALE, ERROR or USAGE; None where the answer was cut.
    """

    version: int | None
    lines: tuple[tuple[str, str], ...]
    sections: Mapping[str, str]
    result: str | None

    def get(self, key: str) -> str | None:
        """The first value of the key."""
        return next((value for name, value in self.lines if name == key), None)

    def all(self, key: str) -> tuple[str, ...]:
        """Every value of the key, in the order said."""
        return tuple(value for name, value in self.lines if name == key)

    def decoded(self, section: str) -> str:
        """Text of a section that was sent in base64; bytes that are no UTF-8 are replaced.

        Raises:
            MalformedAnswerError: it is no base64.
        """
        try:
            return base64.b64decode(self.sections.get(section, "")).decode("utf-8", "replace")
        except binascii.Error as error:
            raise MalformedAnswerError(section) from error


@dataclass(frozen=True, slots=True)
class PlacedProbe:
    """What became of the probe in one webroot.

    Attributes:
        webroot: the directory.
        placed: the file lies there.
        reason: placed, missing (no such directory), symlink (a link below the root), exists, or unwritable.
        body: the file's text, another for each webroot: who fetches it sees which root was served.
    """

    webroot: str
    placed: bool
    reason: str
    body: str


def parse_answer(output: bytes) -> Answer:
    """Read what a verb printed; what a login shell printed before it is skipped. A cut answer has no result."""
    whole = output.endswith(b"\n")
    text = output.decode("utf-8", "replace").split("\n")
    if whole:
        text.pop()
    while text and not text[0].startswith("agent="):
        del text[0]
    if not text:
        return Answer(None, (), {}, None)
    version = text[0].removeprefix("agent=")
    lines: list[tuple[str, str]] = []
    sections: dict[str, list[str]] = {}
    inside: list[str] | None = None
    for line in text[1:]:
        if line.startswith("|"):
            if inside is not None:
                inside.append(line[1:])
        elif line.startswith("begin "):
            inside = sections[line.removeprefix("begin ")] = []
        elif line.startswith("end "):
            inside = None
        else:
            key, _, value = line.partition("=")
            lines.append((key, value))
    result = lines.pop()[1] if whole and inside is None and lines and lines[-1][0] == "result" else None
    joined = {name: "\n".join(content) for name, content in sections.items()}
    return Answer(number_of(version) or 0, tuple(lines), joined, result)


def number_of(text: str | None) -> int | None:
    """A number as the script writes it, at most 18 digits; None where it is none."""
    usable = text is not None and text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS
    return int(text) if usable and text is not None else None


def look_of(answer: Answer) -> Look:
    """What LOOK, START and VOID say of an attempt.

    Raises:
        MalformedAnswerError: a state or number that is none.
    """
    pem = answer.sections.get("certificate")
    stage = answer.get("stage")
    try:
        return Look(
            run=RunState(answer.get("run") or ""),
            exit_code=number_of(answer.get("exit")),
            begun=answer.get("begun") != "no",
            rebooted=answer.get("rebooted") == "yes",
            other_run=answer.get("other") == "yes",
            certbot_busy=answer.get("certbot") == "busy",
            certificate_pem=None if pem is None else f"{pem}\n".encode(),
            stage=None if stage is None else Step(stage),
            out_of_memory=answer.get("oom") == "yes",
        )
    except ValueError as error:
        raise MalformedAnswerError(str(error)) from error


def run_output_of(answer: Answer) -> RunOutput:
    """What COLLECT brought.

    Raises:
        MalformedAnswerError: a number or a section that is none.
    """
    return RunOutput(
        look_of(answer).exit_code, answer.decoded("out"), answer.decoded("err"), answer.decoded("log")
    )


def failure_code(words: str, otherwise: Code) -> Code:
    """The code for what a system said when it could not do its part, and `otherwise` where it names no cause."""
    said = words.lower()
    return next((code for phrase, code in _FAILURES if phrase in said), otherwise)


def start_words(spec: RunSpec) -> tuple[str, ...]:
    """What START is told; the script builds certbot's command line from it."""
    action = (
        "dryrun"
        if spec.dry_run
        else "install"
        if spec.only_install
        else "run"
        if spec.install
        else "certonly"
    )
    words = [f"action={action}", f"name={spec.cert_name}"]
    if action in {"run", "install"}:
        words.append(f"redirect={'yes' if spec.redirect else 'no'}")
    if action != "install":
        words += [f"auth={spec.authenticator.value}", f"server={spec.directory_url}"]
        words += [f"force={'yes' if spec.force and not spec.dry_run else 'no'}"]
        words += [f"email={spec.email}"] if spec.email else []
        words += [f"account={spec.account}"] if spec.account else []
        words += [f"keytype={spec.key_type}"] if spec.key_type else []
        words += [f"profile={spec.profile}"] if spec.profile else []
        words += [f"eab={spec.eab_kid}"] if spec.eab_kid else []
    return (*words, *_names(spec, with_roots=action != "install"))


def _names(spec: RunSpec, *, with_roots: bool) -> Sequence[str]:
    if not with_roots or spec.authenticator is not Authenticator.WEBROOT:
        return [f"domain={name}" for name in spec.names]
    pairs = zip(spec.names, spec.webroots, strict=True)
    return [word for name, root in pairs for word in (f"webroot={root}", f"domain={name}")]


def evidence_of(stdout: bytes, stderr: bytes) -> tuple[str, ...]:
    """The lines that say why, from standard error or, where it is empty, from what is no answer of ours."""
    text = (stderr.strip() or (b"" if b"agent=" in stdout else stdout)).decode("utf-8", "replace")
    return tuple(line.strip()[:300] for line in text.splitlines() if line.strip())[:_MAX_EVIDENCE_LINES]
