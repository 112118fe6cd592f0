"""A host's certificate: when it ends, and that people are told in time, once a day, until it is renewed."""

from __future__ import annotations

import logging
import ssl
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from hostagent.agent.expiry import Expiry
from hostagent.edges.kube.certificate import Validity, validity

NOW = datetime(2030, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def pem(begins: datetime, ends: datetime) -> str:
    """Key and certificate in one file, as on hosts."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hostagent:node:h1")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 7, begins, ends)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return (private + builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)).decode()


@pytest.mark.parametrize(
    ("begins", "ends"),
    [
        (datetime(2026, 11, 26, 14, 0, 1, tzinfo=UTC), datetime(2027, 11, 26, 14, 0, 1, tzinfo=UTC)),
        (datetime(1999, 12, 31, tzinfo=UTC), datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC)),
        (datetime(2049, 12, 31, tzinfo=UTC), datetime(2050, 1, 1, tzinfo=UTC)),  # the other form from here on
    ],
)
def test_a_certificate_says_when_it_begins_and_ends(begins: datetime, ends: datetime) -> None:
    assert validity(pem(begins, ends)) == Validity(begins=begins, ends=ends)


@pytest.mark.parametrize("length", [0, 1, 3, 10, 60, 100])
def test_what_is_no_whole_certificate_is_refused(length: int) -> None:
    der = ssl.PEM_cert_to_DER_cert(pem(NOW, NOW + DAY).partition("-----END PRIVATE KEY-----\n")[2])
    with pytest.raises(ValueError, match="certificate"):
        validity(ssl.DER_cert_to_PEM_cert(der[:length]))


def test_a_file_without_a_certificate_is_refused() -> None:
    with pytest.raises(ValueError, match="no certificate"):
        validity("hello")


@pytest.mark.parametrize(
    ("life", "left", "stage"),
    [
        (365 * DAY, 15 * DAY, ""),
        (365 * DAY, 13 * DAY, "soon"),
        (365 * DAY, timedelta(0), "ended"),
        (DAY, timedelta(hours=7), ""),  # short-lived ones are not always about to end
        (DAY, timedelta(hours=5), "soon"),
    ],
)
def test_people_are_warned_in_the_last_two_weeks_or_the_last_quarter(
    life: timedelta, left: timedelta, stage: str
) -> None:
    found = Validity(begins=NOW + left - life, ends=NOW + left)
    expiry = Expiry(lambda: found, now=lambda: NOW)
    assert expiry.stage == stage
    assert bool(expiry.trouble) is bool(stage)


def test_it_is_told_once_a_day_and_again_when_it_gets_worse_or_well(caplog: pytest.LogCaptureFixture) -> None:
    clock = [NOW]
    found = [Validity(begins=NOW - 350 * DAY, ends=NOW + 10 * DAY)]
    expiry = Expiry(lambda: found[0], now=lambda: clock[0])
    told: list[list[str]] = []

    def look_at(at: datetime) -> None:
        clock[0] = at
        caplog.clear()
        expiry.look()
        told.append([record.levelname for record in caplog.records])

    with caplog.at_level(logging.INFO, logger="hostagent"):
        look_at(NOW)
        look_at(NOW + DAY / 2)
        look_at(NOW + DAY)
        look_at(NOW + 10 * DAY)
        look_at(NOW + 10.5 * DAY)
        found[0] = Validity(begins=NOW + 10 * DAY, ends=NOW + 375 * DAY)
        look_at(NOW + 10.6 * DAY)
        look_at(NOW + 10.7 * DAY)

    assert told == [["WARNING"], [], ["WARNING"], ["ERROR"], [], ["INFO"], []]


def test_a_credential_without_a_certificate_has_no_end() -> None:
    expiry = Expiry(lambda: None, now=lambda: NOW)
    expiry.look()
    assert (expiry.ends, expiry.trouble) == (None, "")
