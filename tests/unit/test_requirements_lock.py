"""requirements.lock holds what pyproject.toml asks for, exactly and with hashes."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]


def locked() -> dict[str, str]:
    text = (ROOT / "requirements.lock").read_text()
    return {
        canonicalize_name(name): version
        for name, version in re.findall(r"^([\w.-]+)==([^ \\]+)", text, re.MULTILINE)
    }


def wanted() -> list[Requirement]:
    document = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project = document["project"]
    texts = (
        project["dependencies"]
        + project["optional-dependencies"]["dev"]
        + document["build-system"]["requires"]
    )
    return [Requirement(text) for text in texts]


def test_every_dependency_is_locked_to_a_version_that_satisfies_it() -> None:
    versions = locked()
    for requirement in wanted():
        assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), requirement


def test_every_locked_version_has_a_hash_and_names_no_address() -> None:
    text = (ROOT / "requirements.lock").read_text()
    entries = re.split(r"\n(?=[\w.-]+==)", text.strip())
    assert len(entries) == len(locked())
    assert all("--hash=sha256:" in entry for entry in entries)
    assert "://" not in text
