"""X.509 certificates as facts. `active` and `sslExpiry` come from here and from nothing else (DESIGN A.3)."""

from collections.abc import Iterable
from datetime import datetime

from cryptography import x509
from cryptography.x509.oid import ExtensionOID, NameOID

from workers.core.model import Certificate

_UNREADABLE = (
    ValueError, TypeError, x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType,
)  # fmt: skip


class CertificateUnreadableError(ValueError):
    """The bytes are not an X.509 certificate that can be read."""


def certificate_from_pem(pem: bytes) -> Certificate:
    """Read the first certificate of a PEM file (of `fullchain.pem` that is the leaf).

    Args:
        pem: the file.

    Raises:
        CertificateUnreadableError: there is no readable certificate in it.
    """
    try:
        found = x509.load_pem_x509_certificate(pem)
    except _UNREADABLE as error:
        raise CertificateUnreadableError("not a PEM certificate") from error
    return _facts(found)


def certificate_from_der(der: bytes) -> Certificate:
    """Read a certificate as TLS sends it.

    Args:
        der: its bytes.

    Raises:
        CertificateUnreadableError: they are no certificate.
    """
    try:
        found = x509.load_der_x509_certificate(der)
    except _UNREADABLE as error:
        raise CertificateUnreadableError("not a DER certificate") from error
    return _facts(found)


def _facts(found: x509.Certificate) -> Certificate:
    try:
        issuer = found.issuer.get_attributes_for_oid(NameOID.COMMON_NAME)
        return Certificate(
            serial=f"{found.serial_number:x}",
            names=_names(found),
            issuer=str(issuer[0].value) if issuer else found.issuer.rfc4514_string(),
            not_before=found.not_valid_before_utc,
            not_after=found.not_valid_after_utc,
        )
    except _UNREADABLE as error:
        raise CertificateUnreadableError("a certificate with a field that cannot be read") from error


def _names(found: x509.Certificate) -> tuple[str, ...]:
    """The DNS names of the subject alternative name; browsers look nowhere else."""
    try:
        extension = found.extensions.get_extension_for_oid(ExtensionOID.SUBJECT_ALTERNATIVE_NAME)
    except x509.ExtensionNotFound:
        return ()
    assert isinstance(extension.value, x509.SubjectAlternativeName)
    return tuple(sorted({name.lower() for name in extension.value.get_values_for_type(x509.DNSName)}))


def covers(certificate: Certificate, names: Iterable[str]) -> bool:
    """Whether a certificate is good for every one of these names.

    Args:
        certificate: the certificate.
        names: A-labels, lower-case, without a trailing dot. An empty list counts as covered.
    """
    return not missing_names(certificate, names)


def missing_names(certificate: Certificate, names: Iterable[str]) -> tuple[str, ...]:
    """The names that a certificate is not good for, in the order given.

    A wildcard stands for exactly one label, the leftmost (RFC 6125 section 6.4.3).
    """
    held = frozenset(certificate.names)
    return tuple(name for name in names if name not in held and f"*.{name.partition('.')[2]}" not in held)


def is_valid(certificate: Certificate, now: datetime) -> bool:
    """Whether now lies within the certificate's validity; both ends belong to it (RFC 5280 section 4.1.2.5).

    Args:
        certificate: the certificate.
        now: an instant, timezone-aware.
    """
    return certificate.not_before <= now <= certificate.not_after
