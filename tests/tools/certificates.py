"""Certificates for servers of tests, made on the spot."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class Files(NamedTuple):
    """Where they lie."""

    #: Of the authority that has signed the server's.
    ca: Path
    #: Of the server, valid for 127.0.0.1, and its key.
    certificate: Path
    key: Path
    #: Of an authority that has signed nothing here.
    other_ca: Path


def make(folder: Path) -> Files:
    """Make an authority, a server's certificate and another authority."""
    files = Files(*(folder / f"{name}.pem" for name in ("ca", "server", "key", "other")))
    ca_key, other_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
    files.ca.write_bytes(_certificate("authority", ca_key, "authority", ca_key))
    files.other_ca.write_bytes(_certificate("authority", other_key, "authority", other_key))
    files.certificate.write_bytes(_certificate("server", key, "authority", ca_key))
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    files.key.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.TraditionalOpenSSL, plain)
    )
    return files


def _certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: str,
    issuer_key: ec.EllipticCurvePrivateKey,
) -> bytes:
    subject, signer = (
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, each)]) for each in (name, issuer)
    )
    now, day = datetime.datetime.now(datetime.timezone.utc), datetime.timedelta(days=1)
    is_ca = name == issuer
    addresses = [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    signing = x509.KeyUsage(*(bit in (0, 5, 6) for bit in range(9)))
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    of_issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(signer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .add_extension(x509.BasicConstraints(is_ca, None), critical=True)
        .add_extension(x509.SubjectAlternativeName(addresses), critical=False)
        .add_extension(identifier, critical=False)
        .add_extension(of_issuer, critical=False)
    )
    if is_ca:
        builder = builder.add_extension(signing, critical=True)
    return builder.sign(issuer_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
