"""Every case file, and what the case files say about the tables: complete, not contradictory, not learned by heart."""

import re
from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from types import MappingProxyType

import pytest

from contracts.codes import Code
from tests.unit.reading_cases import (
    THOUGHT_WRONG,
    Case,
    all_cases,
    answer,
    cases,
    deciding_rows,
    inside,
    only_phrases,
    watched,
)
from workers.core.reading import (
    ca,
    config,
    config_rows,
    errnos,
    nginx,
    python,
    read_text,
    served,
    shell,
    state,
    verdicts,
)
from workers.core.reading.gather import TABLES
from workers.core.reading.values import Row, Stage, Weight

READER = Path(read_text.__code__.co_filename).parent


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.id)
def test_a_case_is_read_as_its_file_says(case: Case):
    assert answer(case.text, case.exit_code) == case.answer


@pytest.mark.parametrize(
    "case", [one for one in all_cases() if one.id in THOUGHT_WRONG], ids=lambda case: case.id
)
def test_a_case_that_we_think_wrong_is_still_read_otherwise(case: Case):
    """Else it has to leave the list."""
    assert answer(case.text, case.exit_code) != case.answer


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.id)
def test_evidence_stands_in_the_text_where_it_says(case: Case):
    lines = case.text.split("\n")
    for finding in read_text(case.text, exit_code=case.exit_code).findings:
        assert finding.code is None or finding.evidence
        assert finding.message
        assert finding.fix
        for line in finding.evidence:
            plain = lines[line.line_number - 1].replace("\r", " ").strip()
            assert plain.startswith(line.text[:400])


def test_case_ids_are_unique_and_every_case_says_why():
    ids = Counter(case.id for case in all_cases())
    assert [name for name, count in ids.items() if count > 1] == []


def _rows() -> dict[Row, str]:
    """Every row of the reader, with the place where it stands."""
    found = {row: table.speaker for table in TABLES for row in table.rows}
    for module in (ca, config_rows, errnos, nginx, python, served, shell, state):
        for name, value in vars(module).items():
            group = value.values() if isinstance(value, MappingProxyType) else value
            group = group if isinstance(group, Iterable) and not isinstance(group, str) else (group,)
            for item in group:
                row = item[1] if isinstance(item, tuple) and len(item) > 1 else item
                if isinstance(row, Row):
                    found.setdefault(row, f"{module.__name__}.{name}")
    return found


def test_every_code_that_the_reader_can_give_has_three_cases():
    given = {row.code for row in _rows()} | {Code.PORT_443_BLOCKED, Code.INTERRUPTED, Code.OUT_OF_MEMORY}
    given |= {code for code, _, _ in verdicts.BY_TYPE.values()}
    have = Counter(case.expected["code"] for case in cases())
    assert {code: have[code] for code in given if have[code] < 3} == {}
    assert have[None] >= 3


@cache
def _deciding() -> dict[str, tuple[Row, ...]]:
    return {case.id: deciding_rows(case) for case in cases()}


def test_every_pattern_is_needed_by_a_case():
    used = {row for rows in _deciding().values() for row in rows}
    used |= {row for case in cases() if case.channel == "nginx_config" for row in _config_rows(case)}
    unused = {where: row.phrases[:2] or row.source for row, where in _rows().items() if row not in used}
    assert unused == {}


def _config_rows(case: Case) -> set[Row]:
    document, _ = inside(case)
    return {hit.row for hit in config.config_hits(config.config_part(document))}


def test_two_patterns_never_claim_the_same_words_with_different_codes():
    clashes = []
    for case in cases():
        _, decision = inside(case)
        hits = [hit for verdict in decision.verdicts for hit in verdict.hits]
        hits += [hit for hit in decision.passed_over if hit.the_weight is Weight.CAUSE]
        clashes += [
            (case.id, one.the_code, other.the_code, one.row.phrases[:1], other.row.phrases[:1])
            for one in hits
            for other in hits
            if one.the_weight is other.the_weight is Weight.CAUSE
            and one.the_code < other.the_code
            and max(one.start, other.start) < min(one.end, other.end)
        ]
    assert clashes == []


SAMPLES = {
    "host": "shop.example.org",
    "hosts": "shop.example.org,www.example.org",
    "lineage": "shop.example.org",
    "path": "/etc/letsencrypt/x",
    "n": "5",
    "some": "2",
    "time": "2026-11-24 03:11:09",
    "": "x",
}


def _wordings() -> list[tuple[str, Row]]:
    """Every wording of the tables that stands for itself: no context needed, and a cause."""
    return [
        (phrase, row)
        for table in TABLES
        for row in table.rows
        for phrase in row.phrases
        if row.weight >= Weight.CRASH and not row.needs and not row.line and not row.whole
    ]


def _as_text(phrase: str) -> str:
    said = re.sub(r"\{(\w*)\}", lambda found: SAMPLES[found[1]], phrase)
    return (
        f"Saving debug log to /var/log/letsencrypt/letsencrypt.log\nssh nginx certbot renew sudo \n{said}\n"
    )


@pytest.mark.parametrize(
    ("phrase", "row"), _wordings(), ids=lambda value: value[:50] if isinstance(value, str) else ""
)
def test_every_wording_reads_as_its_row_says(phrase: str, row: Row):
    read = answer(_as_text(phrase), 1)
    explains = {code for table in TABLES for other in table.rows for code in other.explains}
    assert read["code"] == row.code, explains


def test_names_do_not_matter():
    """The same texts about other hosts get the same answers about those hosts."""
    other = {"example.org": "beispiel.test", "example.net": "esempio.test", "example.com": "ejemplo.test"}

    def renamed(text: str) -> str:
        for name, instead in other.items():
            text = text.replace(name, instead)
        return text

    for case in cases():
        wanted = case.answer | {"names": sorted(renamed(name) for name in case.answer["names"])}
        forbidden = 'forbidden domain "example.com"' in case.text
        read = answer(renamed(case.text), case.exit_code)
        assert forbidden or read == wanted, case.id


def test_no_case_is_named_in_the_reader():
    source = "\n".join(path.read_text(encoding="utf-8") for path in READER.glob("*.py"))
    assert [case.id for case in all_cases() if case.id in source] == []
    assert "EXAMPLE" not in source


@cache
def held_out() -> tuple[list[str], list[str]]:
    """Hold each case out: what does the reader say without the phrases that this case alone contains?

    Returns:
        The ids of the cases whose deciding row decides others too, and of those among them that are still right.
    """
    phrases = {}
    for case in cases():
        with watched() as found:
            answer(case.text, case.exit_code)
        phrases[case.id] = set(found)
    often = Counter(phrase for found in phrases.values() for phrase in found)
    rows = Counter(row for deciding in _deciding().values() for row in set(deciding))
    shared = [
        case
        for case in cases()
        if any(rows[row] > 1 for row in _deciding()[case.id]) or case.expected["code"] is None
    ]
    right = []
    for case in shared:
        lonely = {phrase for phrase in phrases[case.id] if often[phrase] == 1}
        with only_phrases(set(often) - lonely):
            if answer(case.text, case.exit_code) == case.answer:
                right.append(case.id)
    return [case.id for case in shared], right


def test_given_cases_are_not_recognised_by_words_that_only_they_contain():
    shared, right = held_out()
    given = {case.id for case in cases() if case.given}
    assert set(shared) & given == set(right) & given


def test_the_readme_states_the_share_of_held_out_cases():
    shared, right = held_out()
    stated = re.search(r"(\d+) of (\d+) held-out cases", (READER / "README.md").read_text(encoding="utf-8"))
    assert stated
    assert (int(stated[1]), int(stated[2])) == (len(right), len(shared))


def test_every_row_names_its_source_and_a_stage_of_the_chain():
    for row, where in _rows().items():
        assert len(row.source) > 10, where
        assert row.stage in Stage
