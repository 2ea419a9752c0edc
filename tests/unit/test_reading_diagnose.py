"""`certpilot diagnose` as a program: its JSON, its words, its exit status."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.unit.reading_cases import all_cases


def _text(case_id: str) -> str:
    return next(case.text for case in all_cases() if case.id == case_id)


class TestDiagnose:
    def _run(self, *words: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "workers.cli.main", "diagnose", *words],
            input=stdin,
            capture_output=True,
            text=True,
            encoding="utf-8",
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(Path.cwd()), **environment},
            timeout=60,
            check=False,
        )

    def test_json_has_the_keys_of_the_contract(self, tmp_path):
        path = tmp_path / "out.log"
        path.write_text(_text("rate-registered-domain-quoted-retry-after-iso"), encoding="utf-8")
        done = self._run("--json", "--exit-code", "1", str(path))
        said = json.loads(done.stdout)
        assert done.returncode == 0
        assert (said["code"], said["names"], said["retry"], said["retryAt"]) == (
            "TOO_MANY_REQUESTS",
            ["example.test"],
            "wait_until",
            "2023-08-25T09:00:00Z",
        )
        assert said["message"]
        assert said["fix"]
        assert all("already issued" in line for line in said["evidence"])
        assert said["findings"][0]["code"] == said["code"]

    def test_nothing_failed_is_null(self):
        said = json.loads(self._run("--json", "--exit-code", "0", stdin=_text("healthy-issue-new")).stdout)
        assert (said["code"], said["names"], said["retry"], said["retryAt"], said["evidence"]) == (
            None,
            [],
            None,
            None,
            [],
        )

    def test_it_reads_standard_input_by_dash_and_without_a_file(self):
        for words in ((), ("-",)):
            assert (
                "SERVER_BUSY"
                in self._run(*words, stdin="Another instance of Certbot is already running.\n").stdout
            )

    def test_it_says_whose_it_is_the_fix_and_the_lines(self):
        shown = self._run("--exit-code", "1", stdin=_text("challenge-401-access-list")).stdout
        assert "owner of the site" in shown
        assert "/.well-known/acme-challenge/ be served" in shown
        assert "11:   Detail" in shown or "11: Detail" in shown

    def test_markup_and_foreign_letters_survive_an_ascii_terminal(self):
        text = "An unexpected error occurred:\nService busy; retry later. [/red] [bold]ü“”\n"
        done = self._run("--exit-code", "1", stdin=text, LC_ALL="C", PYTHONUTF8="0")
        assert done.returncode == 0
        assert "[/red] [bold]" in done.stdout
        assert done.stderr == ""

    def test_a_reader_that_goes_away_is_no_error(self):
        text = _text("challenge-404-two-names-raw-newlines-2017")
        command = f"{sys.executable} -m workers.cli.main diagnose --exit-code 1 | head -1"
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", command],
            input=text,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.stderr == ""
        assert done.returncode == 0

    def test_a_missing_file_is_a_usage_error(self):
        done = self._run("/nonexistent/file")
        assert done.returncode == 2
        assert "/nonexistent/file" in done.stderr

    def test_it_imports_nothing_of_broker_database_or_ssh(self):
        code = (
            "import sys, io; sys.stdin = io.TextIOWrapper(io.BytesIO(b'x'));"
            "from workers.cli.main import main; main(['diagnose', '--json']);"
            "print([name for name in ('pika', 'psycopg', 'paramiko', 'dramatiq') if name in sys.modules])"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
        )
        assert done.stdout.splitlines()[-1] == "[]"
