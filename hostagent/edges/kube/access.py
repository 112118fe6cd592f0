"""What a cluster needs for hosts to use it: packaged manifests, applied on the server's side."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib import resources
from typing import Any

import msgspec

from hostagent.edges.kube.clock import boottime
from hostagent.edges.kube.discovery import Discovery, Object, name_of
from hostagent.edges.kube.transport import APPLY_PATCH, Api, ApiError
from hostagent.model.errors import EdgeError, InvariantError
from hostagent.model.names import NodeName
from hostagent.model.ownership import SESSION_PREFIX

FIELD_MANAGER = "hostagent"
PACKAGED_NAMESPACE = "metallb-system"
"""As the packaged manifests have it; another one is put in its place on request."""
CRD = "CustomResourceDefinition"
TIMEOUT_S = 15.0
ESTABLISHED_WITHIN_S = 30.0
GONE_WITHIN_S = 120.0
POLL_S = 0.2
_OF_THE_SERVER = ("managedFields", "resourceVersion", "generation", "uid", "creationTimestamp")


class Outcome(StrEnum):
    CREATED = "created"
    CHANGED = "changed"
    UNCHANGED = "unchanged"
    DELETED = "deleted"
    ABSENT = "absent"
    KEPT = "kept"


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What became of one object, or would (`--dry-run`)."""

    kind: str
    name: str
    outcome: Outcome
    differences: tuple[str, ...] = ()
    """`path: before -> after`, of a change."""

    @property
    def changed(self) -> bool:
        return self.outcome in (Outcome.CREATED, Outcome.CHANGED, Outcome.DELETED)


def manifests() -> list[tuple[str, str]]:
    """The packaged files, name and text, in the order in which they are applied."""
    folder = resources.files("hostagent") / "manifests"
    found = sorted((e for e in folder.iterdir() if e.name.endswith(".yaml")), key=lambda entry: entry.name)
    if not found:
        raise InvariantError("this build of hostagent carries no manifests")
    return [(entry.name, entry.read_text(encoding="utf-8")) for entry in found]


def objects(texts: Iterable[str], *, namespace: str = PACKAGED_NAMESPACE) -> list[Object]:
    """The objects of manifests, the packaged namespace replaced by `namespace` wherever an object is in or names it."""
    import yaml  # noqa: PLC0415  # only people's commands need it

    found = [each for text in texts for each in yaml.safe_load_all(text) if each]
    return [_moved(each, namespace) for each in found]


async def apply(api: Api, wanted: Sequence[Object], *, dry_run: bool = False) -> list[Applied]:
    """Server-side apply, one after another, then wait until new kinds can be used.

    An object that is as wanted is left alone, so a second run changes nothing. Raises EdgeError naming the object.
    """
    discovery = Discovery(api)
    outcomes = [await _apply(api, discovery, each, dry_run=dry_run, given=wanted) for each in wanted]
    if not dry_run:
        for each in wanted:
            if each["kind"] == CRD:
                await _established(api, each)
    return outcomes


async def remove(api: Api, unwanted: Sequence[Object], *, with_crds: bool) -> list[Applied]:
    """Delete in reverse order; kinds and namespace are gone when this returns, so that `apply` can follow.

    Without `with_crds` these two stay: they hold the configuration. Raises EdgeError naming the object.
    """
    discovery = Discovery(api)
    outcomes: list[Applied] = []
    for each in reversed(unwanted):
        if each["kind"] in (CRD, "Namespace") and not with_crds:
            outcomes.append(Applied(kind=each["kind"], name=name_of(each), outcome=Outcome.KEPT))
            continue
        path = await discovery.path_of(each)
        outcome = Outcome.DELETED
        try:
            await api.request("DELETE", path, timeout_s=TIMEOUT_S)
        except ApiError as error:
            if error.status != 404:
                raise
            outcome = Outcome.ABSENT
        outcomes.append(Applied(kind=each["kind"], name=name_of(each), outcome=outcome))
    if with_crds:
        for each in unwanted:
            if each["kind"] in (CRD, "Namespace"):
                await _gone(api, await discovery.path_of(each), each)
    return outcomes


async def remove_leases(api: Api, namespace: str) -> list[Applied]:
    """Delete every Lease that hosts wrote there: sessions, claims, the allocator's. Raises EdgeError.

    For a cluster that no host serves any more: one that still runs would write its own anew.
    """
    folder = _leases(namespace)
    query = {"labelSelector": "app.kubernetes.io/name=hostagent"}
    found = msgspec.json.decode(await api.request("GET", folder, query=query, timeout_s=TIMEOUT_S))
    names = sorted(each["metadata"]["name"] for each in found["items"])
    return [await _delete_lease(api, folder, name) for name in names]


async def forget(api: Api, nodes: Sequence[NodeName], *, namespace: str, force: bool = False) -> list[Applied]:
    """Delete the sessions of hosts that will not come back.

    Raises EdgeError when a session was not ended by its host, which may be serving, unless `force` says otherwise.
    """
    folder = _leases(namespace)
    outcomes = []
    for node in nodes:
        name = f"{SESSION_PREFIX}{node}"
        lease = await get(api, f"{folder}/{name}")
        if lease and lease["spec"].get("holderIdentity") and not force:
            renewed = lease["spec"].get("renewTime", "never")
            cause = (
                f"its session has not been ended (last renewed {renewed}): stop the agent on {node} first, or use "
                "--force if that host is gone for good"
            )
            raise EdgeError("forget", f"Lease {namespace}/{name}", cause)
        outcomes.append(await _delete_lease(api, folder, name))
    return outcomes


async def _delete_lease(api: Api, folder: str, name: str) -> Applied:
    outcome = Outcome.DELETED
    try:
        await api.request("DELETE", f"{folder}/{name}", timeout_s=TIMEOUT_S)
    except ApiError as error:
        if error.status != 404:
            raise
        outcome = Outcome.ABSENT
    return Applied(kind="Lease", name=name, outcome=outcome)


def _leases(namespace: str) -> str:
    return f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"


async def _apply(api: Api, discovery: Discovery, wanted: Object, *, dry_run: bool, given: Sequence[Object]) -> Applied:
    kind, name = wanted["kind"], name_of(wanted)
    if dry_run and await _needs_another(discovery, wanted, given):
        return Applied(kind=kind, name=name, outcome=Outcome.CREATED)
    path = await discovery.path_of(wanted)
    before = await get(api, path)
    if before is not None and before["metadata"].get("deletionTimestamp"):
        raise EdgeError("apply", f"{kind} {name}", "it is being deleted at the moment: try again when it is gone")
    query = {"fieldManager": FIELD_MANAGER, "force": "true"} | ({"dryRun": "All"} if dry_run else {})
    try:
        reply = await api.request(
            "PATCH",
            path,
            query=query,
            body=msgspec.json.encode(wanted),
            content_type=APPLY_PATCH,
            timeout_s=TIMEOUT_S,
        )
    except ApiError as error:
        missing_namespace = dry_run and error.status == 404 and before is None
        if missing_namespace and _namespace_among(given, wanted):
            return Applied(kind=kind, name=name, outcome=Outcome.CREATED)
        raise EdgeError("apply", f"{kind} {name}", error.cause, status=error.status) from error
    after: Object = msgspec.json.decode(reply)
    if before is None:
        return Applied(kind=kind, name=name, outcome=Outcome.CREATED)
    # Not by resourceVersion: the server's own controllers write status in between.
    found = tuple(differences(_comparable(before), _comparable(after)))
    outcome = Outcome.CHANGED if found else Outcome.UNCHANGED
    return Applied(kind=kind, name=name, outcome=outcome, differences=found)


async def get(api: Api, path: str) -> Object | None:
    try:
        found: Object = msgspec.json.decode(await api.request("GET", path, timeout_s=TIMEOUT_S))
    except ApiError as error:
        if error.status == 404:
            return None
        raise
    return found


async def _needs_another(discovery: Discovery, wanted: Object, given: Sequence[Object]) -> bool:
    """Whether its kind would come into being by the same run: a dry run cannot ask the server about it."""
    if await discovery.knows(wanted):
        return False
    group = wanted["apiVersion"].rpartition("/")[0]
    return any(
        each["kind"] == CRD and each["spec"]["group"] == group and each["spec"]["names"]["kind"] == wanted["kind"]
        for each in given
    )


def _namespace_among(given: Sequence[Object], wanted: Object) -> bool:
    namespace = wanted["metadata"].get("namespace")
    return any(each["kind"] == "Namespace" and each["metadata"]["name"] == namespace for each in given)


async def _gone(api: Api, path: str, unwanted: Object) -> None:
    give_up_at = boottime() + GONE_WITHIN_S
    while (found := await get(api, path)) is not None:
        if boottime() >= give_up_at:
            kept_by = found["metadata"].get("finalizers") or found.get("spec", {}).get("finalizers") or "objects in it"
            cause = f"still being deleted after {GONE_WITHIN_S:.0f} s, kept by {kept_by}"
            raise EdgeError("remove", f"{unwanted['kind']} {name_of(unwanted)}", cause)
        await asyncio.sleep(POLL_S)


async def _established(api: Api, crd: Object) -> None:
    name = crd["metadata"]["name"]
    path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}"
    give_up_at = boottime() + ESTABLISHED_WITHIN_S
    while True:
        found = await get(api, path) or {}
        conditions = {c["type"]: c for c in found.get("status", {}).get("conditions") or ()}
        if conditions.get("Established", {}).get("status") == "True":
            return
        if boottime() >= give_up_at:
            refused = conditions.get("NamesAccepted", {}).get("message") or "the API server says no reason"
            raise EdgeError("apply", f"{CRD} {name}", f"not served {ESTABLISHED_WITHIN_S:.0f} s after apply: {refused}")
        await asyncio.sleep(POLL_S)


def differences(before: Any, after: Any, path: str = "") -> list[str]:
    """Every leaf that differs, as `path: before -> after`."""
    if isinstance(before, dict) and isinstance(after, dict):
        return [
            line
            for key in sorted(before.keys() | after.keys())
            for line in differences(before.get(key), after.get(key), f"{path}.{key}" if path else key)
        ]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs = enumerate(zip(before, after, strict=True))
        return [line for i, (old, new) in pairs for line in differences(old, new, f"{path}[{i}]")]
    if before == after:
        return []
    return [f"{path}: {_short(before)} -> {_short(after)}"]


def _short(value: Any) -> str:
    text = "absent" if value is None else msgspec.json.encode(value).decode()
    return text if len(text) <= 80 else text[:77] + "…"


def _comparable(found: Object) -> Object:
    """What people wrote: without what the server keeps beside it."""
    meta = {key: value for key, value in found["metadata"].items() if key not in _OF_THE_SERVER}
    return {**{key: value for key, value in found.items() if key != "status"}, "metadata": meta}


def _moved(value: Any, namespace: str) -> Any:
    """The object with PACKAGED_NAMESPACE replaced: a Namespace's name, `namespace` fields, and words in CEL rules."""
    if isinstance(value, dict):
        return {key: _moved(each, namespace) for key, each in value.items()}
    if isinstance(value, list):
        return [_moved(each, namespace) for each in value]
    return value.replace(PACKAGED_NAMESPACE, namespace) if isinstance(value, str) else value
