"""Certificates, keys and kubeconfigs, made as a cluster's admin makes them."""

import base64
import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

# Labs step clocks back and forth; a certificate must not be the thing that breaks.
_BACKDATED = timedelta(days=1)
_LIFETIME = timedelta(days=365)
_CA_LIFETIME = timedelta(days=3650)

_CRITICAL = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """A certificate and its key, PEM."""

    certificate: bytes
    key: bytes

    def save(self, folder: Path, name: str) -> None:
        """Write `name`.crt and `name`.key (0600) into `folder`, each whole or not at all."""
        write_private(folder / f"{name}.key", self.key)
        write_private(folder / f"{name}.crt", self.certificate)

    @classmethod
    def load(cls, folder: Path, name: str) -> "Credential":
        return cls(certificate=(folder / f"{name}.crt").read_bytes(), key=(folder / f"{name}.key").read_bytes())


@dataclass(frozen=True, slots=True, kw_only=True)
class Pki:
    """The trust of one cluster, in a folder. Any process that can read the folder can issue."""

    folder: Path

    def ensure(self, *, api_addresses: Sequence[str], service_addresses: Sequence[str]) -> None:
        """Make what is not there yet: CA, the API server's front, service-account key pair.

        `service_addresses` are those of the Service `default/kubernetes`, by which pods know the API server.
        Certificates already there stay, so that kubeconfigs handed out before a restart are still good.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self.ca_certificate.exists():
            _new_ca().save(self.folder, "ca")
        if not (self.folder / "apiserver.crt").exists():
            names = [
                "localhost",
                "kubernetes",
                "kubernetes.default",
                "kubernetes.default.svc",
                "kubernetes.default.svc.cluster.local",
            ]
            addresses = [*api_addresses, *service_addresses, "127.0.0.1", "::1"]
            self._server(names, addresses).save(self.folder, "apiserver")
        if not (self.folder / "service-accounts.pub").exists():
            key = ec.generate_private_key(ec.SECP256R1())
            write_private(self.folder / "service-accounts.key", _key_pem(key))
            public = key.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
            write_private(self.folder / "service-accounts.pub", public)

    @property
    def ca_certificate(self) -> Path:
        return self.folder / "ca.crt"

    def client(self, user: str, groups: Sequence[str] = ()) -> Credential:
        """A certificate by which the API server knows `user`, a member of `groups`."""
        subject = [
            *(x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups),
            x509.NameAttribute(NameOID.COMMON_NAME, user),
        ]
        return self._issue(x509.Name(subject), ExtendedKeyUsageOID.CLIENT_AUTH)

    def kubeconfig(self, server: str, user: str, groups: Sequence[str] = ()) -> str:
        """A kubeconfig for `user` with a fresh certificate, all data embedded."""
        return embedded_kubeconfig(server, self.ca_certificate.read_bytes(), user, self.client(user, groups))

    def _server(self, names: Sequence[str], addresses: Sequence[str]) -> Credential:
        unique = dict.fromkeys(ipaddress.ip_address(address) for address in addresses)
        alternatives = x509.SubjectAlternativeName(
            [*map(x509.DNSName, names), *(x509.IPAddress(address) for address in unique)]
        )
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kube-apiserver")])
        return self._issue(subject, ExtendedKeyUsageOID.SERVER_AUTH, alternatives)

    def _issue(
        self,
        subject: x509.Name,
        usage: x509.ObjectIdentifier,
        alternatives: x509.SubjectAlternativeName | None = None,
    ) -> Credential:
        ca = Credential.load(self.folder, "ca")
        ca_certificate = x509.load_pem_x509_certificate(ca.certificate)
        ca_key = serialization.load_pem_private_key(ca.key, password=None)
        if not isinstance(ca_key, rsa.RSAPrivateKey):
            raise TypeError(f"{self.folder}/ca.key is not an RSA key, as those made here are")
        key = ec.generate_private_key(ec.SECP256R1())
        builder = (
            _builder(subject, ca_certificate.subject, key.public_key(), _LIFETIME)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), _CRITICAL)
            .add_extension(_key_usage(signs_certificates=False), _CRITICAL)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            # Python's ssl refuses a certificate without it since 3.13 (VERIFY_X509_STRICT)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        )
        if alternatives is not None:
            builder = builder.add_extension(alternatives, critical=False)
        certificate = builder.sign(ca_key, hashes.SHA256())
        return Credential(certificate=certificate.public_bytes(serialization.Encoding.PEM), key=_key_pem(key))


def embedded_kubeconfig(server: str, ca: bytes, user: str, credential: Credential) -> str:
    """A kubeconfig that stands alone: the form to hand to someone."""
    return _kubeconfig(
        server,
        user,
        {"certificate-authority-data": _base64(ca)},
        {
            "client-certificate-data": _base64(credential.certificate),
            "client-key-data": _base64(credential.key),
        },
    )


def referring_kubeconfig(server: str, user: str, *, ca: str, certificate: str, key: str) -> str:
    """A kubeconfig that names files (paths as its reader sees them), so that they can be renewed in place."""
    return _kubeconfig(
        server,
        user,
        {"certificate-authority": ca},
        {"client-certificate": certificate, "client-key": key},
    )


def write_private(path: Path, content: bytes) -> None:
    """Put `content` at `path`, mode 0600 from its first byte, whole or not at all."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.unlink(missing_ok=True)
    scratch.touch(mode=0o600, exist_ok=False)
    scratch.write_bytes(content)
    scratch.replace(path)


def _kubeconfig(server: str, user: str, trust: dict[str, str], identity: dict[str, str]) -> str:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "lab", "cluster": {"server": server, **trust}}],
        "users": [{"name": user, "user": identity}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": user}}],
        "current-context": "lab",
    }
    return yaml.safe_dump(config, sort_keys=False)


def _new_ca() -> Credential:
    # RSA as kubeadm makes it: the API server verifies the CA's signature in each request that comes with a certificate,
    # and verifying is what RSA is fast at.
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hostagent lab CA")])
    certificate = (
        _builder(name, name, key.public_key(), _CA_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), _CRITICAL)
        .add_extension(_key_usage(signs_certificates=True), _CRITICAL)
        .sign(key, hashes.SHA256())
    )
    return Credential(certificate=certificate.public_bytes(serialization.Encoding.PEM), key=_key_pem(key))


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public: ec.EllipticCurvePublicKey | rsa.RSAPublicKey,
    lifetime: timedelta,
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _key_pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    # Of an EC key SEC 1 ("EC PRIVATE KEY"): the one form that every reader of service-account keys takes
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
