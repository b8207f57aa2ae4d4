"""A certificate authority, a server's certificate for localhost and a client's, made for one test."""

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class Certificates:
    """Files in a folder; the client is named `device`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._authority = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("test authority")
        self.ca = folder / "ca.pem"
        authority = self._builder(self._name, self._authority).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        self.ca.write_bytes(_pem(authority.sign(self._authority, hashes.SHA256())))
        self.server, self.server_key = self._issue(folder, "localhost")
        self.client, self.client_key = self._issue(folder, "device")

    def _issue(self, folder: Path, name: str) -> tuple[Path, Path]:
        key = ec.generate_private_key(ec.SECP256R1())
        addresses = [x509.DNSName(name), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        builder = self._builder(_name(name), key)
        builder = builder.add_extension(x509.SubjectAlternativeName(addresses), critical=False)
        certificate, key_file = folder / f"{name}.pem", folder / f"{name}.key"
        certificate.write_bytes(_pem(builder.sign(self._authority, hashes.SHA256())))
        key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return certificate, key_file

    def _builder(self, name: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=1))
        )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
