"""Ten thousand mutated texts, any text and any bytes: never a crash, never success for a failure."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.reading_cases import Case, cases
from workers.core.reading import read_text

WORDS = [
    "error",
    "failed",
    "certbot",
    "nginx",
    "acme",
    "Error:",
    "::,",
    "urn:ietf:params:acme:error:",
    "Traceback",
    "(most",
    "recent",
    "call",
    "last):",
    "Detail:",
    "Type:",
    "Domain:",
    "Ошибка",
    "证书",
    "エラー",
    "fehlgeschlagen",
    "échec",
    "\x00ÿ",
    "\x1b[31m",
    '{"type":',
    '"detail":',
    "[emerg]",
    "[Errno",
    "13]",
    "sudo:",
    "ssh:",
    "Killed",
    "429",
    "403",
    "https://",
    "retry",
    "after",
    "2026-13-45",
    "99:99:99",
    "UTC",
    "Hook",
    "'deploy-hook'",
    "ran",
    "with",
    "output:",
    "Processing",
    "/etc/letsencrypt/renewal/x.conf",
]


def _mutated(dice: random.Random, pool: tuple[Case, ...]) -> tuple[str, Case]:
    """Truncate, interleave, garble, translate: what a paste or a broken log may do to a text."""
    case = dice.choice(pool)
    lines = case.text.split("\n")
    for _ in range(dice.randrange(4)):
        kind = dice.randrange(6)
        place = dice.randrange(len(lines) + 1)
        if kind == 0:
            lines = lines[place:] or lines
        elif kind == 1:
            lines = lines[:place] or lines
        elif kind == 2:
            lines.insert(place, " ".join(dice.choices(WORDS, k=dice.randrange(1, 30))))
        elif kind == 3:
            other = dice.choice(pool).text.split("\n")
            lines = [line for pair in zip(lines, other, strict=False) for line in pair]
        elif kind == 4:
            lines = [line[: dice.randrange(1, 200)] for line in lines]
        else:
            lines.insert(place, bytes(dice.randrange(256) for _ in range(200)).decode("latin-1"))
    return "\n".join(lines), case


def test_ten_thousand_mutated_texts_never_crash_and_never_pass_for_success():
    dice = random.Random(20261124)
    failing = tuple(case for case in cases() if case.expected["code"] and len(case.text) < 20_000)
    for _ in range(10_000):
        text, _ = _mutated(dice, failing)
        assert read_text(text, exit_code=1).main.code is not None, text


@given(st.text(max_size=3000), st.sampled_from([None, 0, 1, 2, 137]))
@settings(max_examples=300, deadline=None)
def test_any_text_gives_an_answer(text: str, exit_code: int | None):
    main = read_text(text, exit_code=exit_code).main
    assert main.message
    assert exit_code == 0 or main.code is not None or exit_code is None


@given(st.binary(max_size=3000))
@settings(max_examples=200, deadline=None)
def test_any_bytes_give_an_answer(raw: bytes):
    assert read_text(raw.decode("utf-8", errors="replace"), exit_code=1).main.code is not None
