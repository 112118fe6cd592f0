"""A Secret is a password or a reason, and shows nothing of itself."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from hostagent.edges.kube.secrets import TYPE, to_password
from hostagent.model.bgp import Secret


def a_reply(password: bytes | None = b"hunter2", *, of_type: str = TYPE) -> bytes:
    data = {} if password is None else {"password": base64.b64encode(password).decode()}
    document: dict[str, Any] = {"kind": "Secret", "type": of_type, "data": data}
    return json.dumps(document).encode()


def test_the_key_password_is_the_password() -> None:
    assert to_password(a_reply()) == Secret("hunter2")


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (a_reply(None), "has no key"),
        (a_reply(of_type="Opaque"), 'is of type "Opaque"'),
        (a_reply(b"hunter2 with blanks"), "has blanks"),
        (a_reply(b"hunter2" * 20), "longer than 80"),
        (a_reply("hünter2".encode()), "not ASCII"),
        (a_reply(b""), "is empty"),
        (b'{"type": "kubernetes.io/basic-auth", "data": {"password": "%%"}}', "not ASCII"),
        (b"hunter2", "cannot be decoded"),
    ],
)
def test_anything_else_is_a_reason(reply: bytes, why: str) -> None:
    found = to_password(reply)

    assert isinstance(found, str)
    assert why in found
    assert "hunter2" not in found


def test_a_password_is_not_shown_by_accident() -> None:
    secret = Secret("hunter2")

    assert "hunter2" not in f"{secret} {secret!r} {[secret]}"
