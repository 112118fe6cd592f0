"""Who writes what to the API server, by its own audit log: one line per write of a host's agent, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

AGENTS = "hostagent:nodes"  # the group of the agents' certificates

# Only what is asked for is logged, so a lab that nobody counts in pays nothing for it.
POLICY = f"""\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - level: Metadata
    userGroups: ["{AGENTS}"]
    verbs: [create, update, patch, delete, deletecollection]
  - level: None
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiWrite:
    """A request that would change something, whether it was granted or not."""

    at_s: float  # wall time of its arrival
    user: str
    verb: str
    resource: str
    name: str
    status: int


def writes(log: Path, since_s: float, until_s: float) -> list[ApiWrite]:
    """The agents' writes that arrived in this span of wall time."""
    return [each for each in _read(log) if since_s <= each.at_s < until_s]


def _read(log: Path) -> Iterator[ApiWrite]:
    if not log.exists():
        return
    for line in log.read_text().splitlines(keepends=True):
        if not line.endswith("\n"):  # being written
            return
        said = json.loads(line)
        about = said.get("objectRef", {})
        resource = "/".join(filter(None, [about.get("resource", ""), about.get("subresource", "")]))
        yield ApiWrite(
            at_s=datetime.fromisoformat(said["requestReceivedTimestamp"]).timestamp(),
            user=said["user"]["username"],
            verb=said["verb"],
            resource=resource,
            name=about.get("name", ""),
            status=said.get("responseStatus", {}).get("code", 0),
        )
