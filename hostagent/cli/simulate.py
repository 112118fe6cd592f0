"""`hostagent simulate`: what the cluster would do with these manifests, without a cluster."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.text import Text

from hostagent.cli.client import console, table
from hostagent.cli.manifests import ManifestError, read_documents, to_resource
from hostagent.core.advertised import Advertised
from hostagent.core.documents import Document, Endpointed, Holding, Namespace, Object, Result, Served
from hostagent.core.explain import to_document
from hostagent.core.simulate import Simulation, UnknownNodeError
from hostagent.edges.kube.decode import to_meta, to_node, to_service
from hostagent.edges.kube.endpoints import to_slice
from hostagent.edges.kube.lease_objects import to_claim, to_lease, to_session, vip_of
from hostagent.model.cluster import Endpoints
from hostagent.model.names import Instant, NodeName
from hostagent.model.ownership import SESSION_PREFIX

DELETE = "hostagent.io/simulate"
CLUSTER_SCOPED = ("Node", "Namespace")


@click.command("simulate", short_help="Say what the cluster would do with manifests.")
@click.argument("files", nargs=-1, required=True, metavar="FILE|-...")
@click.option("--drain", "drained", multiple=True, metavar="NODE", help="In the end, drain this node.")
@click.option("--down", "down", multiple=True, metavar="NODE", help="In the end, this node fails.")
@click.option("--assume-ready", is_flag=True, help="Services of which no EndpointSlice is given serve on every node.")
@click.option("--namespace", default="metallb-system", show_default=True, help="The configuration namespace.")
@click.option("--load-balancer-class", default="", metavar="CLASS", help="As in the hosts' config.toml.")
@click.option("--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def simulate(
    *,
    files: tuple[str, ...],
    drained: tuple[str, ...],
    down: tuple[str, ...],
    assume_ready: bool,
    namespace: str,
    load_balancer_class: str,
    output: str,
) -> None:
    """Say which addresses Services get, which nodes answer for them and why, and which Events are told.

    Needs no cluster. Takes the objects of all FILEs in order of appearance: pools, advertisements, peers, Nodes,
    Namespaces, Services, EndpointSlices, and our Leases; other kinds are passed over. A later object replaces an
    earlier one of its kind and name; with the annotation `hostagent.io/simulate: delete` it deletes it. So a change is
    tried on a living cluster's state:

    \b
        kubectl get nodes,namespaces,services,endpointslices -A -o yaml > now.yml
        kubectl get ipaddresspools,l2advertisements,bgpadvertisements,bgppeers,leases \\
            -n metallb-system -o yaml > configuration.yml
        hostagent simulate configuration.yml now.yml change.yml --drain h2

    Without session Leases every Node is taken to have a living agent, and every interface that an advertisement names,
    in the subnet of every address.

    \b
    Exit codes:
        0  all objects are valid, all Services have addresses, and somebody answers for each (if there are Nodes)
        1  not so; the text says what is wrong
        2  something cannot be read, or a node is not known
    """  # noqa: D301 - \\b is click's mark for lines that are not to be filled
    simulation = Simulation(
        namespace=namespace, load_balancer_class=load_balancer_class or None, assume_ready=assume_ready
    )
    ignored: list[str] = []
    try:
        simulation.play([each for name in files for each in read(name, namespace=namespace, ignored=ignored)])
        result = simulation.end(drained=map(NodeName, drained), down=map(NodeName, down))
    except ManifestError as exc:
        raise click.UsageError(str(exc)) from exc
    except UnknownNodeError as exc:
        raise click.UsageError(f"no Node {exc} is given: add its manifest, or correct --drain and --down") from exc
    problems = list(_problems(result))
    if output == "json":
        click.echo(json.dumps(to_json(result, ignored, problems), indent=2))
    else:
        _show(result, ignored, problems)
    sys.exit(1 if problems else 0)


def read(name: str, *, namespace: str, ignored: list[str]) -> Iterator[Document]:
    """The objects of a file in order; what is none of ours is named in `ignored`. Raises ManifestError."""
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
    except OSError as exc:
        raise ManifestError(f"{name}: cannot be read ({exc.strerror}); give a file, or -") from exc
    except UnicodeDecodeError as exc:
        raise ManifestError(f"{name}: is not UTF-8 text; give a YAML file") from exc
    for where, document in read_documents(text, source=name):
        version, kind = document["apiVersion"], document["kind"]
        found = document.get("metadata")
        metadata: dict[str, Any] = found if isinstance(found, dict) else {}
        scope = "" if kind in CLUSTER_SCOPED else metadata.get("namespace") or _default(version, namespace)
        try:
            if version.startswith("metallb.io/"):
                value: Object | None = to_resource(document, where, namespace)
            else:
                placed = {**document, "metadata": {**metadata, "namespace": scope}}
                value = _value(version, kind, msgspec.json.encode(placed), ours=scope == namespace)
        except (msgspec.MsgspecError, ValueError) as exc:
            raise ManifestError(f"{where}: {kind} {metadata.get('name', '')}: {exc}; correct it") from exc
        if value is None:
            ignored.append(f"{kind} {scope}/{metadata.get('name', '')}".replace(" /", " "))
            continue
        yield Document(key=(kind, scope, str(metadata.get("name", ""))), value=value, deletes=_deletes(metadata, where))


def _default(version: str, namespace: str) -> str:
    return namespace if version.startswith(("metallb.io/", "coordination.k8s.io/")) else "default"


def _deletes(metadata: dict[str, Any], where: str) -> bool:
    annotations = metadata.get("annotations")
    word = annotations.get(DELETE) if isinstance(annotations, dict) else None
    if word not in (None, "delete"):
        raise ManifestError(f'{where}: annotation {DELETE} is "{word}"; the only word for it is "delete"')
    return word == "delete"


def _value(version: str, kind: str, raw: bytes, *, ours: bool) -> Object | None:
    """The object as the core has it; None for kinds that decide nothing. `ours`: in the configuration namespace."""
    match version, kind:
        case "v1", "Service":
            return to_service(raw)
        case "v1", "Node":
            return to_node(raw)
        case "v1", "Namespace":
            meta = to_meta(raw)
            return Namespace(name=meta.name, labels=meta.labels or {})
        case "discovery.k8s.io/v1", "EndpointSlice":
            piece = to_slice(raw)
            return Endpointed(service=piece.service, endpoints=Endpoints(serving=piece.serving, nodes=piece.nodes))
        case "coordination.k8s.io/v1", "Lease" if ours:
            lease = to_lease(raw)
            vip = vip_of(lease.name)
            if vip is not None:
                return Holding(vip=vip, holder=to_claim(lease, seen_at=Instant(0)).holder)
            if lease.name.startswith(SESSION_PREFIX):
                return to_session(lease, seen_at=Instant(0))
    return None


def _problems(result: Result) -> Iterator[str]:
    for fault in result.config.faults:
        if not fault.warning:
            yield str(fault)
    for served in result.services:
        if served.pending:
            yield f"Service {served.service.key} has no address: {served.pending}"
        for account in served.addresses:
            if result.nodes and not account.announced:
                reasons = sorted({node.why for node in account.nodes if node.why})
                yield f"Service {served.service.key}: nobody answers for {account.address}: {'; '.join(reasons)}"


def to_json(result: Result, ignored: list[str], problems: list[str]) -> dict[str, Any]:
    """The documented shape: docs/simulate.md."""
    return {
        "ok": not problems,
        "problems": problems,
        "services": [_service(served) for served in result.services],
        "pools": [{"name": pool.name, **pool.status} for pool in result.pools],
        "faults": [
            {
                "kind": fault.kind,
                "namespace": fault.namespace,
                "name": fault.name,
                "field": fault.field,
                "message": fault.message,
                "warning": fault.warning,
            }
            for fault in result.config.faults
        ],
        "moved": [{"address": str(vip), "from": was, "to": now} for vip, was, now in result.moved],
        "events": [
            {
                "kind": told.kind,
                "namespace": told.namespace,
                "name": told.name,
                "type": "Warning" if told.telling.warning else "Normal",
                "reason": told.telling.reason,
                "message": told.telling.message,
            }
            for told in result.events
        ],
        "ignored": ignored,
    }


def _attributes(each: Advertised) -> str:
    grant = each.grant
    words = [f"communities {' '.join(grant.communities)}"] if grant.communities else []
    words += [f"large communities {' '.join(grant.large_communities)}"] if grant.large_communities else []
    words += [f"{name} {value}" for name, value in (("local-pref", grant.local_pref), ("MED", grant.med)) if value]
    words += [f"own AS prepended {grant.prepend} times"] if grant.prepend else []
    return f" ({', '.join(words)})" if words else ""


def _service(served: Served) -> dict[str, Any]:
    return {
        "service": str(served.service.key),
        "pool": served.pool or None,
        "pending": served.pending or None,
        "addresses": [to_document(account) for account in served.addresses],
    }


def _show(result: Result, ignored: list[str], problems: list[str]) -> None:
    out = console()
    rows = table("Address", "Service", "Pool", "Holder", "Why this one", "Other candidates", "No candidates")
    for served in result.services:
        for account in served.addresses:
            others = [node.node for node in account.nodes if node.rank and node.node != account.holder]
            excluded = [f"{node.node} ({node.reason})" for node in account.nodes if not node.rank]
            rows.add_row(
                str(account.address),
                str(served.service.key),
                account.pool or "-",
                account.holder or (Text("-") if account.announced else Text("nobody", style="red")),
                account.why_holder,
                ", ".join(others),
                ", ".join(excluded),
            )
        if not served.addresses:
            rows.add_row("-", str(served.service.key), "-", Text("pending", style="yellow"), served.pending, "", "")
    if rows.row_count:
        out.print(rows)
    else:
        out.print("No LoadBalancer Service of ours is given.")
    _show_routes(out, result)
    for vip, was, now in result.moved:
        out.print(f"moved    {vip} from {was} to {now or 'nobody'}")
    for told in result.events:
        where = f"{told.namespace}/{told.name}" if told.namespace else told.name
        text = f"event    {told.kind} {where}: {told.telling.reason}: {told.telling.message}"
        out.print(Text(text, style="yellow" if told.telling.warning else ""))
    for fault in result.config.faults:
        if fault.warning:
            out.print(Text(f"warning  {fault}", style="yellow"))
    for problem in problems:
        out.print(Text(f"problem  {problem}", style="red"))
    if ignored:
        out.print(Text(f"Passed over: {', '.join(ignored)}", style="dim"))


def _show_routes(out: Console, result: Result) -> None:
    for served in result.services:
        for account in served.addresses:
            for each in account.advertised:
                out.print(Text(f"route    {each.prefix} from {each.node} to {each.peer}{_attributes(each)}"))
            for node, why in account.not_advertised.items():
                out.print(Text(f"no route {account.address} from {node}: {why}", style="dim"))
            for text in account.set_aside:
                out.print(Text(f"no route by {text}", style="yellow"))
