"""Keys and certificates of a cluster, made anew for each."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Iterable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from tests.kubernetes.layout import GATEWAY

#: As whom the API server is asked; the first address of the services is its own inside of a cluster.
_NAMES = ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "node-a", "node-b")
_ADDRESSES = ("127.0.0.1", GATEWAY, "10.96.0.1")
_Key = ec.EllipticCurvePrivateKey
_Extension = tuple[x509.ExtensionType, bool]
#: Extensions of a certificate that signs others, each with whether it is critical, as strict clients ask for them.
_AUTHORITY = (
    (x509.BasicConstraints(ca=True, path_length=None), True),
    (
        x509.KeyUsage(
            digital_signature=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=True,
            crl_sign=True,
            encipher_only=False,
            decipher_only=False,
        ),
        True,
    ),
)


def write_all(folder: Path) -> None:
    """Write what the parts of a cluster prove themselves with: ``ca``, ``server``, ``admin`` and ``accounts``.

    ``admin`` is in ``system:masters``; with ``accounts`` the tokens of service accounts are signed.
    """
    folder.mkdir(parents=True)
    ca_key, ca_name = ec.generate_private_key(ec.SECP256R1()), _name("ca", "tests")
    _write(folder, "ca", ca_key, _certificate(ca_name, ca_key, ca_name, ca_key, _AUTHORITY))
    names: list[x509.GeneralName] = [x509.DNSName(name) for name in _NAMES]
    names += [x509.IPAddress(ipaddress.ip_address(address)) for address in _ADDRESSES]
    for file, who in (("server", _name("server", "tests")), ("admin", _name("admin", "system:masters"))):
        key = ec.generate_private_key(ec.SECP256R1())
        alternatives = (x509.SubjectAlternativeName(names), False)
        _write(folder, file, key, _certificate(who, key, ca_name, ca_key, [alternatives]))
    accounts = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    (folder / "accounts.key").write_bytes(_pem(accounts))
    public = accounts.public_key()
    (folder / "accounts.pub").write_bytes(
        public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )


def _name(common: str, organisation: str) -> x509.Name:
    parts = ((NameOID.ORGANIZATION_NAME, organisation), (NameOID.COMMON_NAME, common))
    return x509.Name([x509.NameAttribute(oid, text) for oid, text in parts])


def _certificate(
    subject: x509.Name,
    key: _Key,
    issuer: x509.Name,
    signer: _Key,
    extensions: Iterable[_Extension],
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=7))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(signer, hashes.SHA256())


def _write(folder: Path, name: str, key: _Key, certificate: x509.Certificate) -> None:
    (folder / f"{name}.key").write_bytes(_pem(key))
    (folder / f"{name}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def _pem(key: _Key | rsa.RSAPrivateKey) -> bytes:
    form = serialization.PrivateFormat.TraditionalOpenSSL
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
