"""A private certificate authority that signs leaves into files."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

NOW = datetime.now(UTC)


class Authority:
    """A private CA that signs leaves into files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "lab root")])
        # Without keyUsage, as private roots often are: Python 3.13 would refuse it by default.
        self.root = (
            x509.CertificateBuilder(
                self.name, self.name, self.key.public_key(), 1, NOW - timedelta(1), NOW + timedelta(9)
            )
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self.key, hashes.SHA256())
        )
        self.file = folder / "root.pem"
        self.file.write_bytes(self.root.public_bytes(serialization.Encoding.PEM))

    def leaf(self, *names: str, serial: int = 7, days: int = 5) -> Path:
        key = ec.generate_private_key(ec.SECP256R1())
        leaf = (
            x509.CertificateBuilder(
                self.name, x509.Name([]), key.public_key(), serial, NOW - timedelta(10), NOW + timedelta(days)
            )
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(n) for n in names]), critical=True)
            .sign(self.key, hashes.SHA256())
        )
        path = self.folder / f"{names[0].replace('*', '_')}-{serial}.pem"
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        path.write_bytes(private + leaf.public_bytes(serialization.Encoding.PEM))
        return path
