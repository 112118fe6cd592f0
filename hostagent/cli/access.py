"""`hostagent access`: prepare a cluster, issue hosts their credentials. For the control machine, not for hosts."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import asdict
from ipaddress import ip_address
from pathlib import Path
from typing import IO, Any, NoReturn, TypeVar

import click
import msgspec

from hostagent.core.preflight import examine
from hostagent.edges.kube import access as cluster
from hostagent.edges.kube import signing
from hostagent.edges.kube.access import Applied, Outcome
from hostagent.edges.kube.preflight import look
from hostagent.edges.kube.transport import Api
from hostagent.model.errors import ConfigError, EdgeError
from hostagent.model.names import NodeName
from hostagent.model.preflight import HostFacts, Severity

T = TypeVar("T")

EXIT_API = 1
EXIT_REFUSED = 65  # EX_DATAERR: what was given is wrong
EXIT_CONFIG = 78  # EX_CONFIG: this machine's own set-up is

kubeconfig_option = click.option(
    "--kubeconfig",
    metavar="FILE",
    default=lambda: os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config"),
    show_default="$KUBECONFIG, else ~/.kube/config",
    help="A cluster admin's kubeconfig.",
)
namespace_option = click.option(
    "--namespace", default=cluster.PACKAGED_NAMESPACE, show_default=True, help="The configuration namespace."
)
_output = click.option("--output", type=click.Choice(["text", "json"]), default="text", show_default=True)


@click.group()
def access() -> None:
    """Prepare a cluster for hostagent, and issue hosts their credentials.

    Run on the control machine with a cluster admin's kubeconfig. Exits with 0 if done, 1 if the API did not do it,
    65 if a certificate request was refused, 78 if the kubeconfig or this machine cannot be used.
    """


@access.command("apply")
@kubeconfig_option
@namespace_option
@click.option("--dry-run", is_flag=True, help="Only say what would change; the API server decides, and keeps nothing.")
@_output
def apply(kubeconfig: str, namespace: str, dry_run: bool, output: str) -> None:
    """Install or update kinds, namespace and access rules. A second run changes nothing."""
    wanted = cluster.objects((text for _, text in cluster.manifests()), namespace=namespace)
    done = with_api(kubeconfig, lambda api: cluster.apply(api, wanted, dry_run=dry_run))
    report(done, output=output, dry_run=dry_run)


@access.command("remove")
@kubeconfig_option
@namespace_option
@click.option("--with-crds", is_flag=True, help="Delete namespace and kinds too, and with them all pools and claims.")
@_output
def remove(kubeconfig: str, namespace: str, with_crds: bool, output: str) -> None:
    """Remove what `apply` installed, and all Leases of hosts; the configuration stays unless --with-crds is given.

    For a cluster whose hosts have all been stopped: one that runs would write its Leases anew until it may no longer.
    """
    unwanted = cluster.objects((text for _, text in cluster.manifests()), namespace=namespace)

    async def act(api: Api) -> list[Applied]:
        leases = await cluster.remove_leases(api, namespace)
        return [*leases, *await cluster.remove(api, unwanted, with_crds=with_crds)]

    report(with_api(kubeconfig, act), output=output, dry_run=False)


@access.command("forget")
@click.argument("nodes", metavar="NODE...", nargs=-1, required=True)
@click.option("--force", is_flag=True, help="Also a host that did not end its session, as it broke down for good.")
@kubeconfig_option
@namespace_option
@_output
def forget(nodes: tuple[str, ...], force: bool, kubeconfig: str, namespace: str, output: str) -> None:
    """Delete the sessions of hosts that will not come back, which `hostagent status` would go on listing."""
    gone = [NodeName(node) for node in nodes]
    done = with_api(kubeconfig, lambda api: cluster.forget(api, gone, namespace=namespace, force=force))
    report(done, output=output, dry_run=False)


@access.command("manifests")
@namespace_option
def manifests(namespace: str) -> None:
    """Print what `apply` applies, for those who use kubectl or GitOps."""
    for name, text in cluster.manifests():
        click.echo(f"---\n# {name}\n{text.replace(cluster.PACKAGED_NAMESPACE, namespace).rstrip()}")


@access.command("sign")
@click.option("--node", required=True, metavar="NAME", help="The host's Node name.")
@click.option("--allocator", is_flag=True, help="It may give out addresses: of group hostagent:allocators besides.")
@click.option("--days", default=365, show_default=True, type=click.IntRange(1, 3650), help="Validity asked for.")
@kubeconfig_option
def sign(node: str, allocator: bool, days: int, kubeconfig: str) -> None:
    """Sign a host's certificate request (PEM on standard input) for user hostagent:node:NAME.

    Prints JSON: certificate, ca, servers, expires. The request must carry exactly this user (CN) and the group
    hostagent:nodes, with --allocator also hostagent:allocators (O, in any order); the host keeps its key. The cluster
    may grant a shorter validity than asked for.
    """
    request_pem = sys.stdin.buffer.read()
    signed = with_api(
        kubeconfig,
        lambda api: signing.sign(api, node=NodeName(node), allocator=allocator, request_pem=request_pem, days=days),
    )
    click.echo(json.dumps(asdict(signed), indent=2))


class _Host(msgspec.Struct, forbid_unknown_fields=True):
    node: str
    addresses: list[str] = []
    gateways: list[str] = []
    passing: list[str] = []

    def facts(self) -> HostFacts:
        """Raises ValueError for what is no address."""
        return HostFacts(
            node=NodeName(self.node),
            addresses=tuple(map(ip_address, self.addresses)),
            gateways=tuple(map(ip_address, self.gateways)),
            passing=tuple(map(ip_address, self.passing)),
        )


@access.command("preflight")
@click.option(
    "--hosts", type=click.File("rb"), default=None, help="What hosts told of themselves, as JSON; - for stdin."
)
@kubeconfig_option
@namespace_option
@_output
def preflight(hosts: IO[bytes] | None, kubeconfig: str, namespace: str, output: str) -> None:
    """Look whether the cluster, and hosts, are fit for a rollout. Changes nothing.

    HOSTS is a list of {"node": …, "addresses": […], "passing": […], "gateways": […]}; passing are VIPs.
    Exits with 65 if something would not work.
    """
    try:
        told = [each.facts() for each in msgspec.json.decode(hosts.read(), type=list[_Host])] if hosts else []
    except ValueError as exc:  # msgspec's own errors among them
        _fail(f"--hosts: {exc}", EXIT_REFUSED)
    facts = with_api(kubeconfig, lambda api: look(api, namespace=namespace))
    found = examine(facts, told)
    if output == "json":
        click.echo(json.dumps({"version": facts.version, "findings": [asdict(each) for each in found]}, indent=2))
    else:
        for each in found:
            click.echo(f"{each.severity:7}  {each.host or 'cluster':12}  {each.check}: {each.says}. {each.remedy}")
    sys.exit(EXIT_REFUSED if any(each.severity is Severity.ERROR for each in found) else 0)


def with_api(kubeconfig: str, act: Callable[[Api], Coroutine[Any, Any, T]]) -> T:
    async def run() -> T:
        api = await Api.open(kubeconfig, user_agent="hostagent-access")
        try:
            return await act(api)
        finally:
            await api.close()

    try:
        return asyncio.run(run())
    except signing.RequestRefusedError as exc:
        _fail(str(exc), EXIT_REFUSED)
    except ConfigError as exc:
        _fail(str(exc), EXIT_CONFIG)
    except EdgeError as exc:
        _fail(str(exc), EXIT_API)


def _fail(message: str, code: int) -> NoReturn:
    click.echo(f"hostagent: {message}", err=True)
    sys.exit(code)


def report(done: Sequence[Applied], *, output: str, dry_run: bool) -> None:
    if output == "json":
        shape = {
            "changed": any(each.changed for each in done),
            "dryRun": dry_run,
            "objects": [
                {"kind": e.kind, "name": e.name, "outcome": e.outcome.value, "differences": list(e.differences)}
                for e in done
            ],
        }
        click.echo(json.dumps(shape, indent=2))
        return
    for each in done:
        would = "would be " if dry_run and each.outcome is not Outcome.UNCHANGED else ""
        click.echo(f"{each.kind} {each.name}: {would}{each.outcome}")
        for line in each.differences if dry_run else ():
            click.echo(f"    {line}")
