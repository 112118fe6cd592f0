"""A credential for one host: its certificate request, signed by the cluster's own CA."""

from __future__ import annotations

import asyncio
import base64
import shutil
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import msgspec

from hostagent.edges.kube.access import get
from hostagent.edges.kube.clock import boottime, whole_seconds
from hostagent.edges.kube.transport import Api, ApiError
from hostagent.model.errors import ConfigError, EdgeError
from hostagent.model.names import NodeName

SIGNER = "kubernetes.io/kube-apiserver-client"
USER_PREFIX = "hostagent:node:"
GROUP = "hostagent:nodes"
ALLOCATORS = "hostagent:allocators"
"""Besides: of hosts that may give out addresses."""
PATH = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
TIMEOUT_S = 15.0
SIGNED_WITHIN_S = 30.0
POLL_S = 0.2
OPENSSL_WITHIN_S = 10.0


class RequestRefusedError(Exception):
    """The certificate request asks for something else than this host's own name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """What a host's kubeconfig is made of; its private key never left the host."""

    certificate: str
    ca: str
    servers: tuple[str, ...]
    expires: str
    """RFC 3339, UTC."""


async def sign(api: Api, *, node: NodeName, allocator: bool, request_pem: bytes, days: int) -> Signed:
    """Have `request_pem` signed for user `hostagent:node:<node>` of group `hostagent:nodes`, and ALLOCATORS if it may.

    Raises RequestRefusedError for a request whose subject is not exactly that, or that is not signed by its own key;
    ConfigError when the openssl command is missing; EdgeError when the API refuses or nobody signs. The
    CertificateSigningRequest is deleted in any case.
    """
    verified_pem = await verify_request(request_pem, node=node, allocator=allocator)
    name = f"hostagent-{node}-{uuid4().hex[:8]}"
    body: dict[str, Any] = {
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "CertificateSigningRequest",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/name": "hostagent"}},
        "spec": {
            "request": base64.b64encode(verified_pem).decode(),
            "signerName": SIGNER,
            "usages": ["digital signature", "client auth"],
            "expirationSeconds": days * 86_400,
        },
    }
    created = msgspec.json.decode(await api.request("POST", PATH, body=msgspec.json.encode(body), timeout_s=TIMEOUT_S))
    try:
        await _approve(api, name, created)
        certificate = await _signed(api, name)
    finally:
        with suppress(ApiError):  # the cluster's own cleaner removes it within the hour
            await api.request("DELETE", f"{PATH}/{name}", timeout_s=TIMEOUT_S)
    return Signed(
        certificate=certificate,
        ca=api.credentials.ca_pem,
        servers=api.credentials.servers,
        expires=await _expiry(certificate.encode()),
    )


async def verify_request(request_pem: bytes, *, node: NodeName, allocator: bool) -> bytes:
    """Raise RequestRefusedError unless the request is for this node's user and groups and nothing else.

    Returns it as openssl understood it: what is sent to the cluster is what was verified, and no second reading of it.
    """
    code, said, problem = await _openssl("req", "-verify", "-subject", "-nameopt", "RFC2253", stdin=request_pem)
    subject = next((line.removeprefix("subject=").strip() for line in said.splitlines() if "subject=" in line), None)
    if code != 0 or subject is None or "verify failure" in f"{said}{problem}".lower():
        last = (problem.strip().splitlines() or ["openssl cannot read it"])[-1]
        raise RequestRefusedError(f"standard input is not a valid PEM certificate request: {last}")
    groups = [ALLOCATORS, GROUP] if allocator else [GROUP]
    wanted = [f"CN={USER_PREFIX}{node}", *(f"O={group}" for group in groups)]
    if sorted(subject.split(",")) != wanted:
        raise RequestRefusedError(
            f"the request's subject is {subject!r}; for host {node} it must be {','.join(wanted)!r} and nothing more"
        )
    return said[said.index("-----BEGIN") :].encode()


async def _approve(api: Api, name: str, created: dict[str, Any]) -> None:
    created.setdefault("status", {})["conditions"] = [
        {
            "type": "Approved",
            "status": "True",
            "reason": "HostagentAccess",
            "message": "Approved by `hostagent access sign`, the subject checked.",
            "lastUpdateTime": whole_seconds(),
        }
    ]
    await api.request("PUT", f"{PATH}/{name}/approval", body=msgspec.json.encode(created), timeout_s=TIMEOUT_S)


async def _signed(api: Api, name: str) -> str:
    give_up_at = boottime() + SIGNED_WITHIN_S
    while boottime() < give_up_at:
        found = await get(api, f"{PATH}/{name}") or {}
        status = found.get("status", {})
        if status.get("certificate"):
            return base64.b64decode(status["certificate"]).decode()
        for condition in status.get("conditions") or ():
            if condition["type"] in ("Denied", "Failed"):
                raise EdgeError("sign", name, f"{condition['type'].lower()}: {condition.get('message') or 'no reason'}")
        await asyncio.sleep(POLL_S)
    raise EdgeError(
        "sign",
        name,
        f"approved, and not signed within {SIGNED_WITHIN_S:.0f} s: does kube-controller-manager run, "
        "with --cluster-signing-cert-file and --cluster-signing-key-file?",
    )


async def _expiry(certificate_pem: bytes) -> str:
    code, said, problem = await _openssl("x509", "-noout", "-enddate", "-dateopt", "iso_8601", stdin=certificate_pem)
    if code != 0:
        raise EdgeError("openssl", "x509", problem.strip() or "cannot read the certificate that the cluster issued")
    return said.strip().removeprefix("notAfter=").replace(" ", "T")


async def _openssl(*args: str, stdin: bytes) -> tuple[int, str, str]:
    program = shutil.which("openssl")
    if program is None:
        raise ConfigError("the openssl command is missing on this machine: install the package openssl")
    process = await asyncio.create_subprocess_exec(
        program,
        *args,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(OPENSSL_WITHIN_S):
            out, err = await process.communicate(stdin)
    except TimeoutError as exc:
        process.kill()
        await process.wait()
        raise EdgeError("openssl", args[0], f"not done within {OPENSSL_WITHIN_S:.0f} s") from exc
    return process.returncode or 0, out.decode(errors="replace"), err.decode(errors="replace")
