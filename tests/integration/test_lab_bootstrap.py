"""The bootstrap: silent and quick where all is there, and clear at once where it cannot be."""

import os
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BOOTSTRAP = str(ROOT / "deploy/lab/bootstrap.sh")


def run(*prefix: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*prefix, BOOTSTRAP, "lab"], capture_output=True, text=True, timeout=60, check=False
    )


def test_prepared_machine_costs_nothing_and_says_nothing() -> None:
    run()
    took = []
    for _ in range(3):
        began = time.monotonic()
        done = run()
        took.append(time.monotonic() - began)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert min(took) < 0.3


@pytest.mark.parametrize(
    ("prefix", "lack"),
    [
        (("unshare", "--user"), "needs root"),
        (("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"), "needs to make Linux namespaces"),
    ],
    ids=["not root", "container without privileges"],
)
def test_what_the_machine_lacks_is_said_at_once(prefix: tuple[str, ...], lack: str) -> None:
    began = time.monotonic()
    done = run(*prefix)
    assert done.returncode == 1
    assert lack in done.stderr
    assert time.monotonic() - began < 5


def test_other_systems_are_told_what_the_lab_needs(tmp_path: Path) -> None:
    uname = tmp_path / "uname"
    uname.write_text("#!/bin/sh\necho Darwin\n")
    uname.chmod(0o755)
    done = run("env", f"PATH={tmp_path}:{os.environ['PATH']}")
    assert (done.returncode, "needs Linux" in done.stderr) == (1, True)


def test_every_make_target_is_listed_with_what_it_does() -> None:
    listed = subprocess.run(
        ["make", "-C", str(ROOT), "help"], capture_output=True, text=True, check=True
    ).stdout
    for target in ("install", "demo", "test", "lint", "bench", "generate"):
        assert f"make {target} " in listed
