"""When a certificate begins and ends.

None of our libraries reads X.509; the standard library does so for peers' certificates only. Of RFC 5280's structure
(section 4.1, in DER, X.690) the way to the validity is walked, and nothing else is looked at.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from datetime import UTC, datetime

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----", re.DOTALL)
_SEQUENCE, _UTC_TIME, _GENERALIZED_TIME, _VERSION = 0x30, 0x17, 0x18, 0xA0
_LONG_FORM = 0x80


@dataclass(frozen=True, slots=True, kw_only=True)
class Validity:
    """Wall time: it is for people, and for telling them in time. No decision about a VIP rests on it."""

    begins: datetime
    ends: datetime


def validity(pem: str) -> Validity:
    """Of the first certificate in a PEM file, which may hold a key and a chain besides. Raises ValueError."""
    found = _PEM.search(pem)
    if found is None:
        raise ValueError("it holds no certificate in PEM")
    der = base64.b64decode(found[1])
    _, at, _ = _element(der, 0, _SEQUENCE)  # Certificate
    _, at, _ = _element(der, at, _SEQUENCE)  # TBSCertificate
    tag, _, end = _element(der, at)
    if tag == _VERSION:  # absent in version 1
        at = end
    for _ in ("serialNumber", "signature", "issuer"):
        _, _, at = _element(der, at)
    _, at, _ = _element(der, at, _SEQUENCE)  # Validity
    tag, begin, end = _element(der, at)
    begins = _time(tag, der[begin:end])
    tag, begin, end = _element(der, end)
    return Validity(begins=begins, ends=_time(tag, der[begin:end]))


def _element(der: bytes, at: int, wanted: int | None = None) -> tuple[int, int, int]:
    """Tag, begin and end of the content of the element at `at`."""
    try:
        tag, length, begin = der[at], der[at + 1], at + 2
    except IndexError as exc:
        raise ValueError("the certificate is cut off") from exc
    if length & _LONG_FORM:
        octets = length & ~_LONG_FORM
        length = int.from_bytes(der[begin : begin + octets], "big")
        begin += octets
    if begin + length > len(der) or (wanted is not None and tag != wanted):
        raise ValueError("the certificate is cut off, or none")
    return tag, begin, begin + length


def _time(tag: int, text: bytes) -> datetime:
    """RFC 5280, 4.1.2.5: years to 2049 have two digits."""
    shapes = {_UTC_TIME: "%y%m%d%H%M%SZ", _GENERALIZED_TIME: "%Y%m%d%H%M%SZ"}
    if tag not in shapes:
        raise ValueError(f"the certificate's validity has tag {tag}")
    at = datetime.strptime(text.decode("ascii"), shapes[tag]).replace(tzinfo=UTC)
    # strptime's own century: 69 to 99 are the past for it, 50 to 99 for certificates.
    return at.replace(year=at.year - 100) if tag == _UTC_TIME and at.year >= 2050 else at
