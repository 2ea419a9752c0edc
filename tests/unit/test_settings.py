"""Choices about certificates and the CA: what is accepted, and that no key is ever repeated."""

from pathlib import Path

import pytest

from workers import settings
from workers.core.model import RunSpec
from workers.core.preflight.server import knows_profiles
from workers.runner.spec_json import spec_from_json, spec_to_json

KEY = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KEY_TYPE", "ACME_PROFILE", "ACME_EAB_KID", "ACME_EAB_HMAC_KEY_FILE"):
        monkeypatch.delenv(f"CERTPILOT_{name}", raising=False)


def test_unset_and_blank_leave_the_choice_to_certbot_and_the_ca(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CERTPILOT_KEY_TYPE", " ")
    config = settings.load()
    assert (config.key_type, config.acme_profile, config.acme_eab_kid) == (None, None, None)
    assert settings.eab_hmac_key(config) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("KEY_TYPE", "dsa"),
        ("ACME_PROFILE", "-x"),
        ("ACME_PROFILE", "a b"),
        ("ACME_EAB_KID", "a\nb"),
        ("ACME_EAB_KID", "kid"),
    ],
)
def test_a_wrong_choice_stops_the_start_with_its_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"CERTPILOT_{name}", value)
    with pytest.raises(settings.SettingsError, match=f"CERTPILOT_{name}|CERTPILOT_ACME_EAB_HMAC_KEY_FILE"):
        settings.load()


def test_a_key_file_without_its_kid_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CERTPILOT_ACME_EAB_HMAC_KEY_FILE", "/x")
    with pytest.raises(settings.SettingsError, match="or neither"):
        settings.load()


@pytest.mark.parametrize("held", [KEY, f"{KEY}==\n"])
def test_the_key_is_read_from_its_file_and_shown_nowhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, held: str
) -> None:
    config = with_key(monkeypatch, tmp_path, held.encode())
    assert settings.eab_hmac_key(config) == KEY
    assert KEY not in repr(config) + repr(settings.describe(config))


@pytest.mark.parametrize(
    "held", [b"", b"short", f"{KEY}\neab-kid = x".encode(), f"{KEY} x".encode(), b"\xff" * 40]
)
def test_a_file_that_holds_no_key_is_refused_without_repeating_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, held: bytes
) -> None:
    config = with_key(monkeypatch, tmp_path, held)
    with pytest.raises(settings.SettingsError, match="base64url") as refused:
        settings.eab_hmac_key(config)
    assert KEY not in str(refused.value)


def with_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, held: bytes) -> settings.Settings:
    (tmp_path / "key").write_bytes(held)
    monkeypatch.setenv("CERTPILOT_ACME_EAB_KID", "kid-1")
    monkeypatch.setenv("CERTPILOT_ACME_EAB_HMAC_KEY_FILE", str(tmp_path / "key"))
    return settings.load()


def test_a_stored_spec_keeps_the_choices_and_an_older_one_has_none() -> None:
    spec = RunSpec(
        "https://ca.test/dir", None, "a.test", ("a.test",), key_type="rsa", profile="p", eab_kid="k"
    )
    assert spec_from_json(spec_to_json(spec)) == spec
    stored = {
        name: value
        for name, value in spec_to_json(spec).items()
        if name not in {"key_type", "profile", "eab_kid"}
    }
    assert spec_from_json(stored).key_type is None


@pytest.mark.parametrize(
    ("version", "knows"),
    [("4.0.0", True), ("5.8.0", True), ("3.3.0", False), ("2.1.0", False), ("", False), (None, False)],
)
def test_profiles_came_with_certbot_4(version: str | None, knows: bool) -> None:
    assert knows_profiles(version) is knows
