"""Certificates as facts."""

import contextlib
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from workers.core.certificate import (
    CertificateUnreadableError,
    certificate_from_der,
    certificate_from_pem,
    covers,
    is_valid,
    missing_names,
)
from workers.core.model import Certificate

START = datetime(2026, 11, 24, 10, tzinfo=UTC)
END = START + timedelta(days=90)


def make(*names: str, serial: int = 0x0AB1, issuer: str | None = "R11", san: bool = True) -> x509.Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    attribute = (
        x509.NameAttribute(NameOID.COMMON_NAME, issuer)
        if issuer
        else x509.NameAttribute(NameOID.ORGANIZATION_NAME, "A CA")
    )
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "common.example")])
    builder = x509.CertificateBuilder(x509.Name([attribute]), subject, key.public_key(), serial, START, END)
    if san:
        general = [x509.DNSName(n) for n in names] + [x509.RFC822Name("a@b.example")]
        builder = builder.add_extension(x509.SubjectAlternativeName(general), critical=False)
    return builder.sign(key, hashes.SHA256())


def held(*names: str) -> Certificate:
    return Certificate("1", names, "R11", START, END)


def test_a_certificate_is_read_into_serial_names_issuer_and_validity() -> None:
    made = make("WWW.b.example", "a.example", "a.example")
    expected = Certificate("ab1", ("a.example", "www.b.example"), "R11", START, END)
    assert certificate_from_pem(made.public_bytes(serialization.Encoding.PEM)) == expected
    assert certificate_from_der(made.public_bytes(serialization.Encoding.DER)) == expected


def test_of_a_chain_the_first_certificate_is_the_leaf() -> None:
    chain = b"".join(
        make(n).public_bytes(serialization.Encoding.PEM) for n in ("leaf.example", "root.example")
    )
    assert certificate_from_pem(chain).names == ("leaf.example",)


def test_an_issuer_without_common_name_is_told_in_full() -> None:
    assert (
        certificate_from_der(make("a.example", issuer=None).public_bytes(serialization.Encoding.DER)).issuer
        == "O=A CA"
    )


def test_the_common_name_of_the_subject_is_no_name_of_the_site() -> None:
    assert certificate_from_der(make(san=False).public_bytes(serialization.Encoding.DER)).names == ()


@pytest.mark.parametrize(
    "data", [b"", b"nonsense", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_what_is_no_certificate_is_one_clear_error(data: bytes) -> None:
    with pytest.raises(CertificateUnreadableError):
        certificate_from_pem(data)
    with pytest.raises(CertificateUnreadableError):
        certificate_from_der(data)


WHOLE = make("a.example").public_bytes(serialization.Encoding.DER)


@pytest.mark.filterwarnings("ignore:Parsed a serial number which wasn't positive")
@given(st.integers(0, len(WHOLE) - 1), st.integers(0, 255))
def test_a_damaged_certificate_is_read_or_refused_but_nothing_else(at: int, byte: int) -> None:
    damaged = WHOLE[:at] + bytes([byte]) + WHOLE[at + 1 :]
    with contextlib.suppress(CertificateUnreadableError):
        certificate_from_der(damaged)


@pytest.mark.parametrize(
    ("names", "asked", "missing"),
    [
        (("a.example", "www.a.example"), ("a.example",), ()),
        (("a.example",), ("a.example", "www.a.example"), ("www.a.example",)),
        (("*.a.example",), ("www.a.example", "x.a.example"), ()),
        (("*.a.example",), ("a.example",), ("a.example",)),
        (("*.a.example",), ("x.y.a.example",), ("x.y.a.example",)),
        (("w*.a.example",), ("www.a.example",), ("www.a.example",)),
        ((), ("a.example",), ("a.example",)),
        (("a.example",), (), ()),
    ],
)
def test_a_wildcard_stands_for_one_label(
    names: tuple[str, ...], asked: tuple[str, ...], missing: tuple[str, ...]
) -> None:
    assert missing_names(held(*names), asked) == missing
    assert covers(held(*names), asked) is (not missing)


@pytest.mark.parametrize(
    ("now", "valid"),
    [(START - timedelta(seconds=1), False), (START, True), (END, True), (END + timedelta(seconds=1), False)],
)
def test_both_ends_belong_to_the_validity(now: datetime, valid: bool) -> None:
    assert is_valid(held("a.example"), now) is valid
