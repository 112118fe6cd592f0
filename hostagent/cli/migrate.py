"""`hostagent migrate`: take a running MetalLB's addresses over. For the control machine, not for hosts."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import click
import msgspec

from hostagent.cli.access import EXIT_API, kubeconfig_option, namespace_option, report, with_api
from hostagent.core.reserved import reserved_by
from hostagent.core.takeover import Outlook, foresee
from hostagent.edges.kube import metallb
from hostagent.edges.kube.access import Applied
from hostagent.edges.kube.decode import to_meta, to_node, to_resource, to_service
from hostagent.edges.kube.metallb import Found
from hostagent.edges.kube.transport import LIST_TIMEOUT_S, Api, ApiError

CONFIG_KINDS = ("ipaddresspools", "l2advertisements", "bgpadvertisements", "bgppeers", "bfdprofiles", "communities")

TOO_MANY_REQUESTS = 429
TRIES, TRY_AGAIN_S = 10, 1.0
"""A kind whose definition has just changed is not served for a moment: "storage is (re)initializing"."""

_output = click.option("--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
_dry_run = click.option("--dry-run", is_flag=True, help="Only say what would change; the API server keeps nothing.")
_class = click.option("--load-balancer-class", default="", metavar="CLASS", help="As in the hosts' config.toml.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether a migration may begin."""

    found: Found
    outlook: Outlook

    @property
    def obstacles(self) -> list[str]:
        """What must be put right first."""
        found = [str(fault) for fault in self.outlook.config.faults if not fault.warning]
        found += [
            f"Service {each.service} would lose {', '.join(map(str, each.has))}: {each.why}"
            for each in self.outlook.losers
        ]
        found += [f"{operator} starts MetalLB again: scale it to 0 first" for operator in self.found.operators]
        return found

    @property
    def remarks(self) -> list[str]:
        """What is to be known, and stops nothing."""
        found = [str(fault) for fault in self.outlook.config.faults if fault.warning]
        found += [
            f"{each} is managed by {each.managed_by}: have it stop there too, or MetalLB comes back"
            for each in self.found.workloads
            if each.managed_by
        ]
        waiting = [each for each in self.outlook.services if not each.would_have]
        found += [
            f"Service {each.service} has no address, and gets none: {each.why}" for each in waiting if not each.has
        ]
        return found


@click.group(short_help="Take a running MetalLB's addresses over.")
def migrate() -> None:
    """Take a running MetalLB's addresses over, without changing one.

    `playbooks/migrate-from-metallb.yml` runs these in order. Run on the control machine with a cluster admin's
    kubeconfig. Exits with 0 if done, 1 if an obstacle or the API was in the way, 78 if the kubeconfig cannot be used.
    """


@migrate.command("check")
@kubeconfig_option
@namespace_option
@_class
@_output
def check(kubeconfig: str, namespace: str, load_balancer_class: str, output: str) -> None:
    """Say what is there of MetalLB, and whether any Service would lose its address. Changes nothing."""
    verdict = with_api(kubeconfig, lambda api: _look(api, namespace, load_balancer_class or None))
    if output == "json":
        click.echo(json.dumps(to_json(verdict), indent=2))
    else:
        _show(verdict)
    sys.exit(EXIT_API if verdict.obstacles else 0)


@migrate.command("stop-controller")
@kubeconfig_option
@namespace_option
@_dry_run
@_output
def stop_controller(kubeconfig: str, namespace: str, dry_run: bool, output: str) -> None:
    """Stop whoever gives addresses, and make kinds and pools independent of MetalLB's Pods.

    Speakers go on announcing; nothing is given or taken back from now on. Webhook configurations that MetalLB's Pods
    answer are deleted, CRDs no longer converted by them; no CRD and no object is deleted.
    """

    async def act(api: Api) -> list[Applied]:
        found = await metallb.find(api, namespace=namespace)
        controllers = [each for each in found.workloads if each.controls]
        return [
            *await metallb.free_configuration(api, found, dry_run=dry_run),
            *await metallb.stop(api, controllers, namespace=namespace, dry_run=dry_run),
        ]

    report(with_api(kubeconfig, act), output=output, dry_run=dry_run)


@migrate.command("stop-speakers")
@kubeconfig_option
@namespace_option
@_dry_run
@_output
def stop_speakers(kubeconfig: str, namespace: str, dry_run: bool, output: str) -> None:
    """Stop whoever announces, and wait until its Pods are gone: hosts with a running agent take over within seconds.

    To go back: take the nodeSelector `hostagent.io/metallb-is-stopped` off the DaemonSets again.
    """

    async def act(api: Api) -> list[Applied]:
        found = await metallb.find(api, namespace=namespace)
        speakers = [each for each in found.workloads if not each.controls]
        return await metallb.stop(api, speakers, namespace=namespace, dry_run=dry_run)

    report(with_api(kubeconfig, act), output=output, dry_run=dry_run)


async def _look(api: Api, namespace: str, load_balancer_class: str | None) -> Verdict:
    services = [to_service(raw) for raw in await _list(api, "/api/v1/services")]
    nodes = [to_node(raw) for raw in await _list(api, "/api/v1/nodes")]
    spaces = [to_meta(raw) for raw in await _list(api, "/api/v1/namespaces")]
    resources = []
    for kind in CONFIG_KINDS:
        version = "v1beta2" if kind == "bgppeers" else "v1beta1"
        path = f"/apis/metallb.io/{version}/namespaces/{namespace}/{kind}"
        resources += [to_resource(raw) for raw in await _list(api, path, absent_ok=True)]
    outlook = foresee(
        services,
        resources,
        namespace=namespace,
        namespaces={each.name: each.labels or {} for each in spaces},
        reserved=reserved_by(nodes, ()),
        load_balancer_class=load_balancer_class,
    )
    return Verdict(found=await metallb.find(api, namespace=namespace), outlook=outlook)


class _List(msgspec.Struct):
    items: list[msgspec.Raw] | None = None


async def _list(api: Api, path: str, *, absent_ok: bool = False) -> list[msgspec.Raw]:
    for patience in reversed(range(TRIES)):
        try:
            body = await api.request("GET", path, timeout_s=LIST_TIMEOUT_S)
            break
        except ApiError as error:
            if absent_ok and error.status == 404:
                return []
            if error.status != TOO_MANY_REQUESTS or not patience:
                raise
            await asyncio.sleep(error.retry_after_s or TRY_AGAIN_S)
    return list(msgspec.json.decode(body, type=_List).items or ())


def to_json(verdict: Verdict) -> dict[str, Any]:
    """The shape that the playbook reads."""
    found = verdict.found
    return {
        "ready": not verdict.obstacles,
        "obstacles": verdict.obstacles,
        "remarks": verdict.remarks,
        "metallb": {
            "workloads": [
                {"kind": each.kind, "name": each.name, "image": each.image, "stopped": each.stopped}
                for each in found.workloads
            ],
            "webhooks": list(found.webhooks),
            "converted": list(found.converted),
        },
        "addresses": {str(each.service): [str(ip) for ip in each.has] for each in verdict.outlook.services},
        "services": [
            {
                "service": str(each.service),
                "has": [str(ip) for ip in each.has],
                "would_have": [str(ip) for ip in each.would_have],
                "why": each.why,
            }
            for each in verdict.outlook.services
        ],
    }


def _show(verdict: Verdict) -> None:
    found = verdict.found
    workloads = ", ".join(f"{each}{' (stopped)' if each.stopped else ''}" for each in found.workloads)
    click.echo(f"MetalLB here: {workloads or 'none'}")
    keeping = sum(bool(each.has) and not each.loses for each in verdict.outlook.services)
    click.echo(f"{keeping} Services keep their addresses, {len(verdict.outlook.losers)} would lose theirs")
    _lines("remark", verdict.remarks)
    _lines("obstacle", verdict.obstacles)
    click.echo("not ready: put the obstacles right first" if verdict.obstacles else "ready")


def _lines(word: str, lines: Iterable[str]) -> None:
    for line in lines:
        click.echo(f"{word}: {line}")
