"""The shape of the code as a test: sizes, one home for each table's writes, imports that connect to nothing."""

import importlib
import pkgutil
import re
import socket
import subprocess
import sys
import venv
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import contracts
import db
import workers

ROOT = Path(__file__).parent.parent
PACKAGES = (contracts, db, workers)
LONGEST_SOURCE_LINES = 300
LONGEST_TEST_LINES = 600
TABLES = (
    "site", "job", "job_attempt", "lease", "inbox", "inbox_conflict", "outbox", "activity", "limit_bucket", "pause",
    "delivery_crash", "discarded_letter", "lineage",
)  # fmt: skip
# A job is written by admission (jobs), its holder (claims, outcomes), operators (operators, replays); nobody else.
WRITERS = {
    "job": {"jobs.py", "claims.py", "outcomes.py", "operators.py", "replays.py"},
    "job_attempt": {"outcomes.py"},
    "lease": {"claims.py", "leases.py"},
    "site": {"sites.py", "watch.py"},
}


def sources(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


@pytest.mark.parametrize(
    ("folders", "most"),
    [
        (("contracts", "db", "workers", "deploy", "docs"), LONGEST_SOURCE_LINES),
        (("tests",), LONGEST_TEST_LINES),
    ],
)
def test_no_file_is_longer_than_a_reader_likes(folders: tuple[str, ...], most: int) -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in sources(*folders)
        if (lines := len(path.read_text().splitlines())) > most
    }
    assert not long


@pytest.mark.parametrize("table", TABLES)
def test_each_table_is_written_in_its_own_home(table: str) -> None:
    statement = re.compile(rf"\b(?:insert into|update|delete from)\s+{table}\b(?!_)", re.IGNORECASE)
    writers = {
        path.name for path in sources("db", "workers", "contracts") if statement.search(path.read_text())
    }
    assert writers, f"nothing writes {table}: the pattern is wrong"
    assert len(writers) == 1 or writers <= WRITERS.get(table, set())


def test_importing_any_module_connects_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a connection at import")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    for package in PACKAGES:
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)


def test_our_package_names_are_ours_alone() -> None:
    """PyPI has distributions called contracts, db and workers; one of them in site-packages would win."""
    owners = packages_distributions()
    for package in PACKAGES:
        assert set(owners[package.__name__]) == {"certpilot"}


def test_command_line_works_from_an_installed_wheel(tmp_path: Path) -> None:
    """What ships is what is tested: the package's data files too."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    # From a copy, so that the build leaves nothing in the checkout.
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True
    ).stdout.split(b"\0")
    for name in filter(None, map(bytes.decode, tracked)):
        if (
            name.startswith(("contracts/", "db/", "workers/", "pyproject", "README"))
            and (ROOT / name).exists()
        ):
            target = tmp_path / "source" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    build = [
        *pip,
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
        str(tmp_path / "source"),
    ]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    venv.create(tmp_path / "venv", with_pip=False)
    site_packages = next((tmp_path / "venv" / "lib").glob("python*/site-packages"))
    subprocess.run(
        [*pip, "install", "--no-deps", "--target", str(site_packages), str(wheel)],
        check=True,
        capture_output=True,
    )
    # The dependencies come from this environment, our own packages only from the wheel.
    here = next(Path(path) for path in sys.path if path.endswith("site-packages"))
    (site_packages / "dependencies.pth").write_text(f"{here}\n")
    program = "import db.migrate as m, workers.edges.server.agent as a; print(len(m.known_migrations()), len(a.script()) > 1000)"
    done = subprocess.run(
        [tmp_path / "venv/bin/python", "-c", program],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split()[1] == "True"
    helped = subprocess.run(
        [tmp_path / "venv/bin/python", "-m", "workers.cli.main", "--help"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    assert "diagnose" in helped.stdout
