"""A running MetalLB: what of it is in the cluster, and how it is made to stop without losing its configuration."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from hostagent.edges.kube.access import Applied, Outcome
from hostagent.edges.kube.clock import boottime
from hostagent.edges.kube.transport import LIST_TIMEOUT_S, MERGE_PATCH, Api, ApiError
from hostagent.model.errors import EdgeError

GROUP = "metallb.io"
PARKED = "hostagent.io/metallb-is-stopped"
"""A node label that no node has: a DaemonSet that asks for it runs nowhere. Taking it off again starts MetalLB."""
STOPPED_WITHIN_S = 120.0
POLL_S = 0.5
APPS, CORE = "/apis/apps/v1", "/api/v1"
HOOKS = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
KEEP = "helm.sh/resource-policy"
"""Helm leaves what says `keep` when its release is removed: with a CRD all of its objects would go."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A Deployment or DaemonSet of MetalLB."""

    kind: str
    name: str
    stopped: bool
    selector: str
    """Label selector of its Pods."""
    image: str
    managed_by: str
    """Who would start it again: `Helm`, `argocd`, …; empty if nobody says."""

    @property
    def controls(self) -> bool:
        """It gives addresses, or starts what does; otherwise it announces."""
        return self.kind == "Deployment"

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """All of MetalLB that is there."""

    workloads: tuple[Workload, ...] = ()
    webhooks: tuple[str, ...] = ()
    """ValidatingWebhookConfigurations that MetalLB's Pods answer: with these gone every change of a pool fails."""
    converted: tuple[str, ...] = ()
    """CRDs whose versions MetalLB's Pods convert."""
    unprotected: tuple[str, ...] = ()
    """CRDs that would be deleted, and with them all pools, if a Helm release were removed."""
    operators: tuple[str, ...] = ()
    """Deployments of the MetalLB operator, which starts everything again."""


async def find(api: Api, *, namespace: str) -> Found:
    """Look for MetalLB. Raises EdgeError."""
    deployments = await _items(api, f"{APPS}/namespaces/{namespace}/deployments")
    daemons = await _items(api, f"{APPS}/namespaces/{namespace}/daemonsets")
    ours = [_workload("Deployment", each) for each in deployments if _is_metallb(each)]
    ours += [_workload("DaemonSet", each) for each in daemons if _is_metallb(each)]
    hooks = [each for each in await _items(api, HOOKS) if _validates(each)]
    crds = [each for each in await _items(api, CRDS) if each["spec"].get("group") == GROUP]
    return Found(
        workloads=tuple(each for each in ours if "operator" not in each.name),
        operators=tuple(str(each) for each in ours if "operator" in each.name and not each.stopped),
        webhooks=tuple(sorted(each["metadata"]["name"] for each in hooks)),
        converted=tuple(
            sorted(each["metadata"]["name"] for each in crds if each["spec"].get("conversion", {}).get("webhook"))
        ),
        unprotected=tuple(
            sorted(
                each["metadata"]["name"]
                for each in crds
                if _managed_by(each) == "Helm" and (each["metadata"].get("annotations") or {}).get(KEEP) != "keep"
            )
        ),
    )


async def free_configuration(api: Api, found: Found, *, dry_run: bool) -> list[Applied]:
    """Make kinds and pools independent of MetalLB's Pods. Raises EdgeError."""
    done = [await _delete(api, "ValidatingWebhookConfiguration", HOOKS, name, dry_run) for name in found.webhooks]
    for name in sorted({*found.converted, *found.unprotected}):
        patch: dict[str, Any] = {}
        if name in found.converted:
            patch["spec"] = {"conversion": {"strategy": "None", "webhook": None}}
        if name in found.unprotected:
            patch["metadata"] = {"annotations": {KEEP: "keep"}}
        done.append(await _patch(api, "CustomResourceDefinition", f"{CRDS}/{name}", name, patch, dry_run=dry_run))
    return done


async def stop(api: Api, workloads: Sequence[Workload], *, namespace: str, dry_run: bool) -> list[Applied]:
    """Stop these, so that they can be started again, and wait until their Pods are gone. Raises EdgeError."""
    done = []
    for each in workloads:
        if each.stopped:
            done.append(Applied(kind=each.kind, name=f"{namespace}/{each.name}", outcome=Outcome.UNCHANGED))
            continue
        if each.kind == "Deployment":
            patch: dict[str, Any] = {"spec": {"replicas": 0}}
        else:  # a DaemonSet has no replicas
            patch = {"spec": {"template": {"spec": {"nodeSelector": {PARKED: "true"}}}}}
        path = f"{APPS}/namespaces/{namespace}/{each.kind.lower()}s/{each.name}"
        done.append(await _patch(api, each.kind, path, f"{namespace}/{each.name}", patch, dry_run=dry_run))
    if not dry_run:
        for each in workloads:
            await _no_pods(api, each, namespace)
    return done


async def _no_pods(api: Api, workload: Workload, namespace: str) -> None:
    give_up_at = boottime() + STOPPED_WITHIN_S
    query = {"labelSelector": workload.selector}
    while pods := await _items(api, f"{CORE}/namespaces/{namespace}/pods", query):
        if boottime() >= give_up_at:
            names = ", ".join(sorted(each["metadata"]["name"] for each in pods))
            cause = f"its Pods still run after {STOPPED_WITHIN_S:.0f} s: {names}"
            raise EdgeError("stop", f"{workload} in {namespace}", cause)
        await asyncio.sleep(POLL_S)


def _is_metallb(each: Mapping[str, Any]) -> bool:
    labels = each["metadata"].get("labels") or {}
    return labels.get("app") == "metallb" or labels.get("app.kubernetes.io/name") in ("metallb", "frr-k8s")


def _workload(kind: str, each: Mapping[str, Any]) -> Workload:
    spec = each["spec"]
    pods = spec["template"]["spec"]
    stopped = spec.get("replicas", 1) == 0 if kind == "Deployment" else PARKED in (pods.get("nodeSelector") or {})
    labels = (spec.get("selector") or {}).get("matchLabels") or {}
    return Workload(
        kind=kind,
        name=each["metadata"]["name"],
        stopped=stopped,
        selector=",".join(f"{key}={value}" for key, value in sorted(labels.items())),
        image=next((container.get("image", "") for container in pods.get("containers") or ()), ""),
        managed_by=_managed_by(each),
    )


def _managed_by(each: Mapping[str, Any]) -> str:
    labels, annotations = each["metadata"].get("labels") or {}, each["metadata"].get("annotations") or {}
    for key in annotations.keys() | labels.keys():
        if key.startswith("argocd.argoproj.io/"):
            return "Argo CD"
        if key.startswith("kustomize.toolkit.fluxcd.io/"):
            return "Flux"
    return "Helm" if labels.get("app.kubernetes.io/managed-by") == "Helm" else ""


def _validates(each: Mapping[str, Any]) -> bool:
    rules = (rule for hook in each.get("webhooks") or () for rule in hook.get("rules") or ())
    return any(GROUP in (rule.get("apiGroups") or ()) for rule in rules)


async def _items(api: Api, path: str, query: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
    found = msgspec.json.decode(await api.request("GET", path, query=query, timeout_s=LIST_TIMEOUT_S))
    items: list[dict[str, Any]] = found.get("items") or []
    return items


async def _delete(api: Api, kind: str, folder: str, name: str, dry_run: bool) -> Applied:
    query = {"dryRun": "All"} if dry_run else None
    try:
        await api.request("DELETE", f"{folder}/{name}", query=query)
    except ApiError as error:
        if error.status != 404:
            raise
        return Applied(kind=kind, name=name, outcome=Outcome.ABSENT)
    return Applied(kind=kind, name=name, outcome=Outcome.DELETED)


async def _patch(api: Api, kind: str, path: str, name: str, patch: dict[str, Any], *, dry_run: bool) -> Applied:
    query = {"dryRun": "All"} if dry_run else None
    body = msgspec.json.encode(patch)
    await api.request("PATCH", path, query=query, body=body, content_type=MERGE_PATCH, timeout_s=LIST_TIMEOUT_S)
    return Applied(kind=kind, name=name, outcome=Outcome.CHANGED)
