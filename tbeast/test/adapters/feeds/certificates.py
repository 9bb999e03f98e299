"""Certificates for tests: an authority of our own, and hosts that it vouches for."""

from __future__ import annotations

import datetime
import ipaddress

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet.ssl import Certificate, KeyPair, PrivateCertificate, trustRootFromCertificates

LIFETIME = datetime.timedelta(days=1)


class Authority:
    """Signs certificates.

    @ivar trust_root: for clients that are to believe in it.
    """

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "tests")])
        certificate = self._signed(self._name, self._key, x509.BasicConstraints(ca=True, path_length=None))
        pem = certificate.public_bytes(serialization.Encoding.PEM)
        self.trust_root = trustRootFromCertificates([Certificate.loadPEM(pem)])

    def server(self, host: str) -> PrivateCertificate:
        """A server's certificate and key for one host name or address."""
        key = ec.generate_private_key(ec.SECP256R1())
        try:
            name: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
        except ValueError:
            name = x509.DNSName(host)
        certificate = self._signed(
            x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)]), key, x509.SubjectAlternativeName([name])
        )
        pair = KeyPair.load(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
            format=1,  # OpenSSL's number for PEM
        )
        loaded: PrivateCertificate = PrivateCertificate.load(
            certificate.public_bytes(serialization.Encoding.PEM), pair, 1
        )
        return loaded

    def _signed(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, extension: x509.ExtensionType
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - LIFETIME)
            .not_valid_after(now + LIFETIME)
            .add_extension(extension, critical=True)
            .sign(self._key, hashes.SHA256())
        )
