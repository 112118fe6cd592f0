"""What stands behind a VIP in a lab: kube-proxy on every host, small HTTP servers, and their Kubernetes objects.

The objects are those of a bare-metal cluster whose pods use their host's network: an endpoint is a host's own address.
There is no kubelet and no pod; who answers is decided by kube-proxy alone, as in a cluster.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from tests.fabric.admin import wait_for
from tests.fabric.controlplane import ControlPlane
from tests.fabric.hosts import Host

Object = dict[str, Any]

PORT = 80
BACKEND_PORT = 8080
KUBE_PROXY_BIN = "/opt/lab/bin/kube-proxy"

_KUBE_PROXY_KUBECONFIG = "/etc/kubernetes/kube-proxy.kubeconfig"
_KUBE_PROXY_UNIT = f"""\
[Unit]
Description=Kubernetes service proxy of the lab
After=network-online.target
[Service]
# nftables: as hosts of our time have it. Conntrack limits are the outer kernel's, not to be set from a lab host.
ExecStart={KUBE_PROXY_BIN} --kubeconfig={_KUBE_PROXY_KUBECONFIG} --hostname-override=%H --proxy-mode=nftables \\
  --conntrack-max-per-core=0 --conntrack-min=0 --conntrack-tcp-timeout-established=0 \\
  --conntrack-tcp-timeout-close-wait=0
Restart=always
RestartSec=1
[Install]
WantedBy=multi-user.target
"""
# Without it a host drops what it should pass on to another host's backend. Clusters have it from their CNI plugin.
_FORWARDING = "net.ipv4.ip_forward = 1\nnet.ipv6.conf.all.forwarding = 1\n"

_BACKEND_PROGRAM = "/opt/lab/backend.py"
_BACKEND = '''\
"""Answers every GET with the name of the host, over IPv4 and IPv6."""
import http.server
import os
import socket
import sys

NAME = (socket.gethostname() + "\\n").encode()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(NAME)))
        self.end_headers()
        self.wfile.write(NAME)

    def log_message(self, *args):
        pass


class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6  # and IPv4: bindv6only is off
    request_queue_size = 128
    daemon_threads = True


server = Server(("::", int(sys.argv[1])), Handler)
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:  # sd_notify(3)
    manager.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
server.serve_forever()
'''
_BACKEND_UNIT = f"""\
[Unit]
Description=Lab backend on port %i
[Service]
Type=notify
ExecStart=/usr/bin/python3 {_BACKEND_PROGRAM} %i
Restart=always
[Install]
WantedBy=multi-user.target
"""


def install_kube_proxy(host: Host, plane: ControlPlane) -> None:
    """kube-proxy runs on the host, now and after every boot. Its program must be bound in at KUBE_PROXY_BIN.

    Returns once it has written its first rules: connections through the host work from then on.
    """
    host.write_file(_KUBE_PROXY_KUBECONFIG, plane.kubeconfig_for("system:kube-proxy"), mode=0o600)
    host.write_file("/etc/sysctl.d/50-kubernetes.conf", _FORWARDING)
    host.run(["sysctl", "--quiet", "--load", "/etc/sysctl.d/50-kubernetes.conf"])
    host.write_file("/etc/systemd/system/kube-proxy.service", _KUBE_PROXY_UNIT)
    host.run(["systemctl", "enable", "--quiet", "--now", "kube-proxy.service"])
    wait_for(
        lambda: _programmed(host),
        60.0,
        lambda: f"kube-proxy on {host.name} has written its rules; it said:\n{_tail(host.journal_text('kube-proxy'))}",
    )


def start_backend(host: Host, port: int = BACKEND_PORT) -> None:
    """The host answers HTTP on this port of all its addresses, now and after every boot."""
    host.write_file(_BACKEND_PROGRAM, _BACKEND)
    host.write_file("/etc/systemd/system/lab-backend@.service", _BACKEND_UNIT)
    host.run(["systemctl", "enable", "--quiet", "--now", f"lab-backend@{port}.service"])


def stop_backend(host: Host, port: int = BACKEND_PORT) -> None:
    """Nothing listens on the port any more. The endpoint stays in Kubernetes until somebody removes it."""
    host.run(["systemctl", "disable", "--quiet", "--now", f"lab-backend@{port}.service"])


def node(host: Host) -> Object:
    """The host as Kubernetes knows it, as its kubelet would have written it."""
    addresses = [{"type": "InternalIP", "address": address} for address in host.addresses]
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": host.name, "labels": {"kubernetes.io/hostname": host.name, "kubernetes.io/os": "linux"}},
        "status": {
            "addresses": [*addresses, {"type": "Hostname", "address": host.name}],
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "lab host"}],
        },
    }


def register_nodes(plane: ControlPlane, hosts: Sequence[Host]) -> None:
    """The hosts are Nodes of the cluster, with their addresses, Ready."""
    nodes = [node(host) for host in hosts]
    plane.apply([{**each, "status": {}} for each in nodes])
    for each in nodes:
        patch_status(plane, "node", each["metadata"]["name"], each["status"])


def namespace(name: str) -> Object:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def service(
    name: str,
    *,
    namespace: str = "default",
    families: Sequence[str] = ("IPv4",),
    ports: Sequence[int] = (PORT,),
    local: bool = False,
    annotations: dict[str, str] | None = None,
    labels: dict[str, str] | None = None,
    **spec: Any,
) -> Object:
    """A `type: LoadBalancer` Service without selector: endpoint_slices() says what is behind it.

    `local` is externalTrafficPolicy Local; `spec` adds fields or replaces them, as loadBalancerClass="…".
    """
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace, "annotations": annotations or {}, "labels": labels or {}},
        "spec": {
            "type": "LoadBalancer",
            "allocateLoadBalancerNodePorts": False,
            "ipFamilies": list(families),
            "ipFamilyPolicy": "RequireDualStack" if len(families) == 2 else "SingleStack",
            "externalTrafficPolicy": "Local" if local else "Cluster",
            "ports": [{"name": f"http-{port}", "port": port, "protocol": "TCP"} for port in ports],
            **spec,
        },
    }


def endpoint_slices(
    of: Object,
    hosts: Sequence[Host],
    *,
    backend_port: int = BACKEND_PORT,
    not_ready: Collection[str] = (),
    terminating: Collection[str] = (),
) -> list[Object]:
    """The Service's endpoints, one on each host, one slice per family.

    Hosts named in `not_ready` or `terminating` have theirs in that state; terminating ones still serve.
    """
    meta, spec = of["metadata"], of["spec"]
    return [
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": f"{meta['name']}-{family.lower()}",
                "namespace": meta["namespace"],
                "labels": {
                    "kubernetes.io/service-name": meta["name"],
                    "endpointslice.kubernetes.io/managed-by": "lab.hostagent",
                },
            },
            "addressType": family,
            "ports": [{"name": each["name"], "port": backend_port, "protocol": "TCP"} for each in spec["ports"]],
            "endpoints": [
                {
                    "addresses": [_address(host, family)],
                    "nodeName": host.name,
                    "conditions": {
                        "ready": host.name not in not_ready and host.name not in terminating,
                        "serving": host.name not in not_ready,
                        "terminating": host.name in terminating,
                    },
                }
                for host in hosts
            ],
        }
        for family in spec["ipFamilies"]
    ]


def set_ingress(plane: ControlPlane, of: Object, vips: Sequence[str]) -> None:
    """Write the Service's VIPs into its status by hand, in the place of an allocator."""
    ingress = [{"ip": vip, "ipMode": "VIP"} for vip in vips]
    meta = of["metadata"]
    patch_status(plane, "service", meta["name"], {"loadBalancer": {"ingress": ingress}}, meta["namespace"])


def patch_status(plane: ControlPlane, kind: str, name: str, status: Object, namespace: str | None = None) -> None:
    """Merge into an object's status. Raises admin.KubectlError."""
    scope = [f"--namespace={namespace}"] if namespace else []
    patch = json.dumps({"status": status})
    plane.kubectl("patch", kind, name, *scope, "--subresource=status", "--type=merge", f"--patch={patch}")


def kube_proxy_bind(program: Path) -> tuple[str, str]:
    """What a host must be created with to run kube-proxy."""
    return str(program), KUBE_PROXY_BIN


def _address(host: Host, family: str) -> str:
    version = 6 if family == "IPv6" else 4
    return next(each for each in host.addresses if ipaddress.ip_address(each).version == version)


def _programmed(host: Host) -> bool:
    tables = host.run(["nft", "list", "tables"]).stdout
    return "ip kube-proxy" in tables and "ip6 kube-proxy" in tables


def _tail(text: str) -> str:
    return "\n".join(text.splitlines()[-15:])
