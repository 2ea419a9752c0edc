"""The agent's answer: whatever bytes come, nothing is believed that was not said to its end."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.codes import Code
from workers.core.model import Look, RunSpec, RunState, Step
from workers.edges.server.agent_answer import (
    MalformedAnswerError,
    failure_code,
    look_of,
    parse_answer,
    run_output_of,
    start_words,
)

WHOLE = b"agent=1\nrun=ALIVE\nstage=installing\nbegin certificate\n|-----BEGIN\n|result=STALE\nend certificate\nresult=OK\n"


def test_whole_answer() -> None:
    answer = parse_answer(WHOLE)
    assert (answer.version, answer.result) == (1, "OK")
    assert look_of(answer) == Look(
        RunState.ALIVE, stage=Step.INSTALLING, certificate_pem=b"-----BEGIN\nresult=STALE\n"
    )


@given(st.integers(0, len(WHOLE) - 1))
def test_cut_anywhere_it_has_no_result(length: int) -> None:
    assert parse_answer(WHOLE[:length]).result is None


@given(st.binary() | st.text().map(str.encode) | st.lists(st.sampled_from([*WHOLE.splitlines(keepends=True), b"end x\n", b"|\n", b"begin \n"])).map(b"".join))  # fmt: skip
def test_any_bytes_are_read_without_an_exception(output: bytes) -> None:
    answer = parse_answer(output)
    for reader in (look_of, run_output_of):
        try:
            reader(answer)
        except MalformedAnswerError:
            continue


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\n")))
def test_section_cannot_end_itself(line: str) -> None:
    """The script puts a bar before every line of a file, whatever the file says."""
    inside = "".join(f"|{text}\n" for text in (line, "end certificate", "result=STALE", "begin x"))
    answer = parse_answer(
        f"agent=1\nbegin certificate\n{inside}end certificate\nrun=ENDED\nexit=1\nresult=OK\n".encode()
    )
    assert (answer.result, answer.get("run"), list(answer.sections)) == ("OK", "ENDED", ["certificate"])
    assert answer.sections["certificate"].split("\n")[1] == "end certificate"


@pytest.mark.parametrize("line", ["run=DANCING", "run=", "stage=cooking"])
def test_nonsense_is_malformed(line: str) -> None:
    first = "" if line.startswith("run=") else "run=ALIVE\n"
    with pytest.raises(MalformedAnswerError):
        look_of(parse_answer(f"agent=1\n{first}{line}\nresult=OK\n".encode()))


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("sync: error: No space left on device", Code.DISK_FULL),
        ("mkdir: Disk quota exceeded", Code.DISK_FULL),
        ("sh: 1: Cannot fork", Code.OUT_OF_MEMORY),
        ("touch: Read-only file system", Code.FILESYSTEM_UNUSABLE),
        ("something else", Code.INTERNAL),
    ],
)
def test_what_the_system_says_decides_the_code(words: str, code: Code) -> None:
    assert failure_code(words, Code.INTERNAL) is code


def test_install_alone_names_no_ca_and_no_root() -> None:
    spec = RunSpec(
        "https://ca.test/dir", "o@ca.test", "a.test", ("a.test",), only_install=True, redirect=False
    )
    assert start_words(spec) == ("action=install", "name=a.test", "redirect=no", "domain=a.test")


def test_dry_run_is_never_forced() -> None:
    spec = RunSpec("https://staging.test/dir", None, "a.test", ("a.test",), dry_run=True, force=True)
    assert start_words(spec) == (
        "action=dryrun", "name=a.test", "auth=nginx", "server=https://staging.test/dir", "force=no", "domain=a.test",
    )  # fmt: skip


def test_choices_are_said_and_the_key_of_a_binding_is_no_word() -> None:
    spec = RunSpec(
        "https://ca.test/dir",
        None,
        "a.test",
        ("a.test",),
        key_type="ecdsa",
        profile="shortlived",
        eab_kid="kid-1",
    )
    assert start_words(spec)[-4:] == ("keytype=ecdsa", "profile=shortlived", "eab=kid-1", "domain=a.test")
    assert not [
        word for word in start_words(replace(spec, only_install=True)) if word[:3] in {"key", "pro", "eab"}
    ]
