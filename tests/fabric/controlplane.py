"""A real Kubernetes control plane in a network namespace: etcd, API server, controller manager.

Certificates, RBAC and admission are those of a real cluster; nodes, scheduler and pods there are none. Its state is
its folder: any process that makes a ControlPlane of the same namespace, address and folder has the same one in hand.
"""

import http.client
import shutil
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from tests.fabric import assets, audit
from tests.fabric.admin import Admin, Object, wait_for
from tests.fabric.api_faults import ApiFaults
from tests.fabric.pki import Pki, referring_kubeconfig, write_private
from tests.fabric.processes import Processes, connect_in

T = TypeVar("T")

PORT = 6443
SERVICE_CIDRS = ("10.96.0.0/16", "fd00:96::/112")
_KUBERNETES_SERVICE = ("10.96.0.1", "fd00:96::1")  # the first of each: default/kubernetes

ETCD = "etcd"
API_SERVER = "kube-apiserver"
CONTROLLERS = "kube-controller-manager"

_ETCD_PORT = 2379
_ETCD_PEER_PORT = 2380
_STARTS_WITHIN_S = 60.0  # 3 to 5 s on an idle machine; a loaded one may take its time
_STOPS_WITHIN_S = 15.0

# What a cluster has that matters to hosts and their Services. No node life cycle: it would taint the lab's Nodes,
# which no kubelet reports for. EndpointSlices of Services without a selector are left to who wrote them.
_CONTROLLERS = (
    "certificatesigningrequest-signing-controller",
    "certificatesigningrequest-cleaner-controller",
    "endpointslice-controller",
    "garbage-collector-controller",
    "namespace-controller",
    "root-ca-certificate-publisher-controller",
    "serviceaccount-controller",
    "serviceaccount-token-controller",
    "clusterrole-aggregation-controller",
)

# A lab's machine has memory to spare, not processor: garbage is collected when the heap is five times what lives.
_RARELY_COLLECTED = {"GOGC": "400"}


class ControlPlaneError(Exception):
    """A part of the control plane does not run; the message holds the last it said."""


class ControlPlane:
    """One control plane. `address` is where hosts find it; it is also found at `more_addresses`, if given.

    Not `audited`, it cannot tell the agents' writes, and does not spend time on writing them down.
    """

    def __init__(
        self, netns: str, address: str, state_dir: Path, more_addresses: Sequence[str] = (), *, audited: bool = True
    ) -> None:
        self.netns = netns
        self.address = address
        self.state_dir = state_dir
        self.processes = Processes(netns=netns, folder=state_dir / "processes")
        self._pki = Pki(folder=state_dir / "pki")
        self._more_addresses = tuple(more_addresses)
        self._audited = audited
        self._assets: assets.Assets | None = None
        self._admin: Admin | None = None

    @property
    def server(self) -> str:
        return f"https://{self.address}:{PORT}"

    @property
    def admin(self) -> Admin:
        """The cluster admin. Works while the API server does."""
        if self._admin is None:
            self._admin = Admin(
                netns=self.netns,
                address=self.address,
                port=PORT,
                kubectl_program=self._programs().kubectl,
                folder=self._pki.folder,
            )
        return self._admin

    # Life

    def start(self) -> None:
        """Everything runs and the API server is ready when this returns; what runs already stays as it is.

        Data and certificates of an earlier run are kept. Raises ControlPlaneError, and assets.AssetsError.
        """
        self._make_credentials()
        self._start_etcd()
        self._start_api_server()
        self._start_controllers()

    def stop(self) -> None:
        """Orderly stop of all of it; data stay for the next `start`. A paused API server is resumed to stop."""
        for name in (CONTROLLERS, API_SERVER, ETCD):
            self.processes.stop(name, grace_s=_STOPS_WITHIN_S)

    def kill(self) -> None:
        """SIGKILL to all of it at once, as if its machine lost power. Data stay."""
        for name in (API_SERVER, CONTROLLERS, ETCD):
            self.processes.stop(name, grace_s=0.0)

    def restart(self) -> None:
        self.stop()
        self.start()

    def stop_api_server(self) -> None:
        """The API server ends in order, its connections are closed, and new ones are refused until `start`."""
        self.processes.stop(API_SERVER, grace_s=_STOPS_WITHIN_S)

    def restart_etcd(self) -> None:
        """etcd goes and comes back under a running API server; ready again when this returns.

        etcd itself is away for a fraction of a second; the API server takes 4 to 8 s to find it again (back-off).
        """
        self.processes.stop(ETCD, grace_s=_STOPS_WITHIN_S)
        self._start_etcd()
        self._wait_ready()

    def teardown(self) -> None:
        """No process, no rule and no file of it is left, whoever started it and however that one ended."""
        for name in self.processes.names():
            self.processes.stop(name, grace_s=0.0)
        self._faults().clear()
        if self.state_dir.exists():
            shutil.rmtree(self.state_dir)

    def running(self) -> bool:
        """All its processes are there, paused or not; whether they answer is `admin.ready`."""
        return all(self.processes.running(name) for name in (ETCD, API_SERVER, CONTROLLERS))

    # Faults. Each is undone by the verb beside it, or by teardown.

    def pause(self) -> None:
        """The API server hangs: connections are taken by the kernel, nothing is answered."""
        if not self.processes.running(API_SERVER):
            raise ControlPlaneError(f"{API_SERVER} does not run, so it cannot be paused; start it first")
        self.processes.signal(API_SERVER, signal.SIGSTOP)

    def resume(self) -> None:
        self.processes.signal(API_SERVER, signal.SIGCONT)

    def cut_off(self, source: str) -> None:
        """Nothing passes any more between the host at `source` and the API server, new or established, silently."""
        self._faults().cut_off(source)

    def restore(self, source: str) -> None:
        self._faults().restore(source)

    def slow(self, delay_s: float) -> None:
        """Hosts hear everything from the API server `delay_s` late, though it acts in time. Resets connections."""
        self._faults().slow(delay_s)

    def unslow(self) -> None:
        """Hosts reach the API server directly again. Ends their connections."""
        self._faults().straight()

    def throttle(self, retry_after_s: int = 1) -> None:
        """Hosts get 429 with Retry-After for every request. Resets connections. Ends `slow`, as that ends this."""
        self._faults().throttle(retry_after_s)

    def unthrottle(self) -> None:
        """Hosts are served again. Ends their connections."""
        self._faults().straight()

    # Use

    def kubeconfig_for(self, user: str, groups: Sequence[str] = ()) -> str:
        """A kubeconfig with a fresh certificate for `user`, complete in itself. What it may do, RBAC says."""
        return self._pki.kubeconfig(self.server, user, groups)

    def kubectl(self, *args: str, input: str | None = None) -> str:  # noqa: A002
        return self.admin.kubectl(*args, input=input)

    def apply(self, objects: str | Sequence[Object] | Object) -> None:
        self.admin.apply(objects)

    def get(self, kind: str, name: str, namespace: str | None = "default") -> Object | None:
        return self.admin.get(kind, name, namespace)

    def delete(self, kind: str, name: str, namespace: str | None = "default") -> None:
        self.admin.delete(kind, name, namespace)

    def agent_writes(self, since_s: float, until_s: float) -> list[audit.ApiWrite]:
        """What hosts' agents asked the API server to change, in a span of wall time. Nothing when it is not audited."""
        return audit.writes(self._audit_log, since_s, until_s)

    def wait_for(self, predicate: Callable[[], T], timeout_s: float, describe: str | Callable[[], str]) -> T:
        return wait_for(predicate, timeout_s, describe)

    # Parts

    def _programs(self) -> assets.Assets:
        if self._assets is None:
            self._assets = assets.assets()
        return self._assets

    def _faults(self) -> ApiFaults:
        return ApiFaults(
            netns=self.netns,
            address=self.address,
            port=PORT,
            processes=self.processes,
            certificate=self._pki.folder / "apiserver.crt",
            key=self._pki.folder / "apiserver.key",
        )

    def _make_credentials(self) -> None:
        self.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._pki.ensure(api_addresses=[self.address, *self._more_addresses], service_addresses=_KUBERNETES_SERVICE)
        for name, user, groups in (
            ("admin", "kubernetes-admin", ["system:masters"]),
            ("controllers", "system:kube-controller-manager", []),
        ):
            if (self._pki.folder / f"{name}.kubeconfig").exists():
                continue
            self._pki.client(user, groups).save(self._pki.folder, name)
            text = referring_kubeconfig(
                self.server,
                user,
                ca=str(self._pki.ca_certificate),
                certificate=str(self._pki.folder / f"{name}.crt"),
                key=str(self._pki.folder / f"{name}.key"),
            )
            write_private(self._pki.folder / f"{name}.kubeconfig", text.encode())

    def _start_etcd(self) -> None:
        client, peer = f"http://127.0.0.1:{_ETCD_PORT}", f"http://127.0.0.1:{_ETCD_PEER_PORT}"
        argv: list[str | Path] = [
            self._programs().etcd,
            f"--data-dir={self.state_dir / 'etcd'}",
            "--unsafe-no-fsync",  # survives a killed process; a lab need not survive its machine
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--heartbeat-interval=20",  # alone, it waits for its own election: 0.2 s, not 1 s
            "--election-timeout=200",
            "--log-level=warn",
        ]
        self.processes.start(ETCD, argv, env=_RARELY_COLLECTED)
        self._wait_until(ETCD, self._etcd_serves)

    def _etcd_serves(self) -> bool:
        """It has a leader and can write."""
        connection = http.client.HTTPConnection("127.0.0.1", _ETCD_PORT, timeout=2)
        try:
            connection.sock = connect_in(self.netns, "127.0.0.1", _ETCD_PORT, timeout_s=2)
            connection.request("GET", "/health")
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    @property
    def _audit_log(self) -> Path:
        return self.state_dir / "audit.log"

    def _start_api_server(self) -> None:
        pki = self._pki.folder
        argv: list[str | Path] = [
            self._programs().kube_apiserver,
            f"--etcd-servers=http://127.0.0.1:{_ETCD_PORT}",
            "--bind-address=::",  # both families, all addresses; the certificate says which are meant
            f"--secure-port={PORT}",
            f"--advertise-address={self.address}",
            f"--service-cluster-ip-range={','.join(SERVICE_CIDRS)}",
            "--authorization-mode=Node,RBAC",
            "--allow-privileged",
            f"--client-ca-file={pki / 'ca.crt'}",
            f"--tls-cert-file={pki / 'apiserver.crt'}",
            f"--tls-private-key-file={pki / 'apiserver.key'}",
            f"--cert-dir={pki}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={pki / 'service-accounts.pub'}",
            f"--service-account-signing-key-file={pki / 'service-accounts.key'}",
        ]
        if self._audited:
            policy = self.state_dir / "audit-policy.yaml"
            policy.write_text(audit.POLICY)
            argv += [f"--audit-policy-file={policy}", f"--audit-log-path={self._audit_log}"]
        self.processes.start(API_SERVER, argv, env=_RARELY_COLLECTED)
        self._wait_ready()

    def _start_controllers(self) -> None:
        pki = self._pki.folder
        kubeconfig = pki / "controllers.kubeconfig"
        argv: list[str | Path] = [
            self._programs().kube_controller_manager,
            f"--kubeconfig={kubeconfig}",
            f"--authentication-kubeconfig={kubeconfig}",
            f"--authorization-kubeconfig={kubeconfig}",
            f"--controllers={','.join(_CONTROLLERS)}",
            "--use-service-account-credentials",
            f"--service-account-private-key-file={pki / 'service-accounts.key'}",
            f"--root-ca-file={pki / 'ca.crt'}",
            f"--cluster-signing-cert-file={pki / 'ca.crt'}",
            f"--cluster-signing-key-file={pki / 'ca.key'}",
            "--leader-elect=false",  # there is one; after a kill it shall not wait for its own lease
            "--bind-address=127.0.0.1",
            f"--cert-dir={pki}",
        ]
        self.processes.start(CONTROLLERS, argv, env=_RARELY_COLLECTED)

    def _wait_ready(self) -> None:
        self._wait_until(API_SERVER, self.admin.ready)

    def _wait_until(self, name: str, good: Callable[[], bool]) -> None:
        def good_or_gone() -> bool:
            return good() or not self.processes.running(name)

        def how_it_is() -> str:
            return f"{name} serves; the end of {self.processes.log(name)}:\n{self.processes.tail(name)}"

        try:
            wait_for(good_or_gone, _STARTS_WITHIN_S, how_it_is)
        except TimeoutError as error:
            raise ControlPlaneError(str(error)) from error
        if not self.processes.running(name):
            raise ControlPlaneError(
                f"{name} ended while starting; the end of {self.processes.log(name)}:\n{self.processes.tail(name)}"
            )
