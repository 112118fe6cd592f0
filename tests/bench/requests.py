"""Requests by the thousand to an API server, 32 at a time, by curl: what makes the load must not be most of it."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

AT_ONCE = 32
RETRIES = 60
"""One a second: of what an API server refuses, or does not answer, that is as busy as can be."""
FINE = {"POST": ("201", "409"), "DELETE": ("200", "404"), "PATCH": ("200",)}
"""Of a request that was sent again, the first reply was lost: it has been carried out already."""
CONTENT = {"POST": "application/json", "PATCH": "application/merge-patch+json"}


@dataclass(frozen=True, slots=True)
class Request:
    """One of them."""

    method: str
    path: str
    body: dict[str, Any] | None = None


async def send_all(kubeconfig: Path, requests: Sequence[Request]) -> None:
    """Send all, and return when all are answered. Raises RuntimeError when the API server took one of them not.

    `kubeconfig` has its certificates in files, as a lab's administrator's.
    """
    if not requests:
        return
    config = yaml.safe_load(kubeconfig.read_text())
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    common = {
        "cacert": cluster["certificate-authority"],
        "cert": user["client-certificate"],
        "key": user["client-key"],
        "retry": RETRIES,
        "retry-delay": 1,
        "retry-connrefused": True,
        "max-time": 60,
        "output": "/dev/null",
    }
    text = "\nnext\n".join(_lines(common, cluster["server"], each) for each in requests)
    process = await asyncio.create_subprocess_exec(
        *("curl", "--silent", "--no-progress-meter", "--parallel", "--parallel-max", str(AT_ONCE), "--config", "-"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate(text.encode())
    answers = Counter(tuple(line.split()) for line in out.decode().splitlines())
    wrong = {answer: count for answer, count in answers.items() if answer[1] not in FINE[answer[0]]}
    if process.returncode or wrong or answers.total() != len(requests):
        said = ", ".join(f"{count} {' '.join(answer)}" for answer, count in answers.items())
        raise RuntimeError(f"of {len(requests)} requests: {said or 'no answer'}; curl: {err.decode().strip()}")


def _lines(common: dict[str, Any], server: str, request: Request) -> str:
    options = {**common, "url": server + request.path, "request": request.method}
    options["write-out"] = f"{request.method} %{{http_code}}\n"
    if request.body is not None:
        options |= {"header": f"Content-Type: {CONTENT[request.method]}", "data": json.dumps(request.body)}
    return "\n".join(option if value is True else f"{option} = {_quoted(value)}" for option, value in options.items())


def _quoted(value: object) -> str:
    """A string of curl's configuration files has JSON's escapes for quotes, backslashes and new lines."""
    return str(value) if isinstance(value, int) else json.dumps(value)
