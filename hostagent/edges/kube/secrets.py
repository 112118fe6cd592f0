"""One Secret, read by its name: a password for TCP-MD5 (RFC 2385)."""

from __future__ import annotations

import base64
import binascii

import msgspec

from hostagent.edges.kube.transport import Api, ApiError
from hostagent.model.bgp import Secret, why_unusable

TYPE = "kubernetes.io/basic-auth"


class _Secret(msgspec.Struct):
    type: str = ""
    data: dict[str, str] | None = None


_decoder = msgspec.json.Decoder(_Secret)


async def read_password(api: Api, *, namespace: str, name: str) -> Secret | str:
    """The password in a Secret, or why there is none: as the end of a sentence that begins with its name.

    Raises EdgeError if the API does not tell.
    """
    try:
        reply = await api.request("GET", f"/api/v1/namespaces/{namespace}/secrets/{name}")
    except ApiError as error:
        if error.status == 404:
            return "does not exist; create it"
        if error.status == 403:
            return "may not be read by this host; apply the manifests of this version (hostagent access)"
        raise
    return to_password(reply)


def to_password(reply: bytes) -> Secret | str:
    """What a Secret's JSON holds. Nothing of it is ever part of a message."""
    try:
        found = _decoder.decode(reply)
    except msgspec.DecodeError:
        return "cannot be decoded"
    if found.type != TYPE:
        return f'is of type "{found.type}"; make it one of type {TYPE}'
    try:
        text = base64.b64decode((found.data or {})["password"], validate=True).decode("ascii")
    except KeyError:
        return 'has no key "password"; add it'
    except (binascii.Error, UnicodeDecodeError):
        return "holds a password that is not ASCII text; FRR takes no other"
    return Secret(text) if not (why := why_unusable(text)) else f"holds a password that {why}"
