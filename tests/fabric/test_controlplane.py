"""The fabric's control plane is a real one, its faults are what they say, and nothing of it stays behind."""

import base64
import http.client
import secrets
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.fabric.admin import KubectlError, wait_for
from tests.fabric.assets import PACKAGES, ensure_assets
from tests.fabric.controlplane import PORT, ControlPlane
from tests.fabric.pki import Credential, embedded_kubeconfig
from tests.fabric.processes import Processes, connect_in

pytestmark = [pytest.mark.kube, pytest.mark.netns]

API = "198.51.100.1"
API6 = "2001:db8:51::1"
HOST = "198.51.100.11"
HOST6 = "2001:db8:51::11"

# reset, or closed without TLS's farewell: which of them, the order of packets decides
ENDED = (ConnectionError, ssl.SSLEOFError)

both_families = pytest.mark.parametrize(("api", "host"), [(API, HOST), (API6, HOST6)], ids=["IPv4", "IPv6"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """The control plane's namespace and a host's, on one cable."""

    lab: str
    host: str


def ip(*args: str) -> None:
    subprocess.run(["ip", *args], check=True)


@pytest.fixture(scope="module")
def segment() -> Iterator[Segment]:
    name = f"cp-{secrets.token_hex(3)}"
    lab, host = name, f"{name}-h"
    try:
        for netns in (lab, host):
            ip("netns", "add", netns)
            ip("-n", netns, "link", "set", "lo", "up")
        ip("-n", lab, "link", "add", "br0", "type", "veth", "peer", "name", "eth0", "netns", host)
        for netns, device, v4, v6 in ((lab, "br0", API, API6), (host, "eth0", HOST, HOST6)):
            ip("-n", netns, "address", "add", f"{v4}/24", "dev", device)
            ip("-n", netns, "address", "add", f"{v6}/64", "dev", device, "nodad")
        ip("-n", lab, "link", "set", "br0", "up")
        ip("-n", host, "link", "set", "eth0", "up")
        yield Segment(lab=lab, host=host)
    finally:
        for netns in (lab, host):
            subprocess.run(["ip", "netns", "delete", netns], check=False, stderr=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def plane(segment: Segment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    plane = ControlPlane(segment.lab, API, tmp_path_factory.mktemp("lab") / "control-plane", [API6])
    try:
        plane.start()
        yield plane
    finally:
        plane.teardown()


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """A host's connection to the API server, kept open from request to request."""

    connection: http.client.HTTPSConnection

    def get(self, path: str = "/version") -> http.client.HTTPResponse:
        self.connection.request("GET", path)
        answer = self.connection.getresponse()
        answer.read()
        return answer


class Connect(Protocol):
    def __call__(self, api: str = API) -> Caller: ...


@pytest.fixture
def call(segment: Segment, plane: ControlPlane) -> Iterator[Connect]:
    """Connects from the host as kubernetes-admin, with little patience."""
    pki = plane.admin.folder
    tls = ssl.create_default_context(cafile=str(pki / "ca.crt"))
    tls.load_cert_chain(pki / "admin.crt", pki / "admin.key")
    opened: list[socket.socket] = []

    def connect(api: str = API) -> Caller:
        plain = connect_in(segment.host, api, PORT, timeout_s=1.0)
        opened.append(plain)
        connection = http.client.HTTPSConnection(api, PORT, context=tls)
        connection.sock = tls.wrap_socket(plain, server_hostname=api)
        connection.auto_open = 0
        opened.append(connection.sock)
        return Caller(connection=connection)

    yield connect
    for each in opened:
        each.close()


def a_config_map(name: str, **data: str) -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "default"},
        "data": data,
    }


def test_it_is_the_version_it_says_and_serves_both_families(plane: ControlPlane) -> None:
    service = plane.get("Service", "kubernetes")

    assert service is not None
    assert plane.kubectl("version").count("v1.35.4") == 2
    plane.apply(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "both", "namespace": "default"},
            "spec": {
                "ipFamilyPolicy": "RequireDualStack",
                "type": "LoadBalancer",
                "ports": [{"port": 80}],
            },
        }
    )
    both = plane.get("svc", "both")
    assert both is not None
    assert [address.startswith("fd00:96::") for address in both["spec"]["clusterIPs"]] == [False, True]


def test_objects_are_applied_read_listed_and_deleted(plane: ControlPlane) -> None:
    plane.apply([a_config_map("first", colour="red"), a_config_map("second")])
    plane.apply(yaml.safe_dump(a_config_map("first", colour="blue")))

    first = plane.get("ConfigMap", "first")
    assert first is not None
    assert first["data"] == {"colour": "blue"}
    assert {"first", "second"} <= {each["metadata"]["name"] for each in plane.admin.list_all("cm", "default")}

    plane.delete("ConfigMap", "first")
    plane.delete("ConfigMap", "first")
    assert plane.get("ConfigMap", "first") is None
    with pytest.raises(KeyError, match="CRD"):
        plane.get("ipaddresspools.metallb.io", "any", "metallb-system")
    with pytest.raises(KubectlError, match=r"(?i)invalid"):
        plane.apply(a_config_map("Not_A_Name"))


def test_a_kubeconfig_may_do_what_rbac_says_and_no_more(plane: ControlPlane, tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(plane.kubeconfig_for("someone", ["readers"]))
    name = f"--kubeconfig={kubeconfig}"
    plane.kubectl("create", "role", "reader", "--verb=get,list", "--resource=services", "--namespace=default")
    plane.kubectl("create", "rolebinding", "readers", "--role=reader", "--group=readers", "--namespace=default")

    assert "kubernetes" in plane.kubectl(name, "--namespace=default", "get", "services")
    with pytest.raises(KubectlError, match=r'User "someone" cannot list resource "secrets"'):
        plane.kubectl(name, "--namespace=default", "get", "secrets")


def test_writes_of_agents_are_counted_and_nothing_else_is(plane: ControlPlane, tmp_path: Path) -> None:
    began_at = time.time()
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(plane.kubeconfig_for("hostagent:node:h9", ["hostagent:nodes"]))
    as_agent = f"--kubeconfig={kubeconfig}"
    plane.apply(a_config_map("counted"))
    with pytest.raises(KubectlError):
        plane.kubectl(as_agent, "--namespace=default", "get", "services")
    with pytest.raises(KubectlError):  # it may not, which is a request to the API server none the less
        plane.kubectl(as_agent, "--namespace=default", "delete", "configmap", "counted")

    wait_for(lambda: plane.agent_writes(began_at, time.time()), 5, "a line in the audit log")
    [write] = plane.agent_writes(began_at, time.time())
    assert (write.user, write.verb, write.resource, write.name, write.status) == (
        *("hostagent:node:h9", "delete", "configmaps", "counted"),
        403,
    )
    assert plane.agent_writes(0.0, began_at) == []


def test_an_approved_signing_request_yields_a_working_identity(plane: ControlPlane, tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "hostagent:nodes"),
            x509.NameAttribute(NameOID.COMMON_NAME, "hostagent:node:h1"),
        ]
    )
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    plane.apply(
        {
            "apiVersion": "certificates.k8s.io/v1",
            "kind": "CertificateSigningRequest",
            "metadata": {"name": "h1"},
            "spec": {
                "signerName": "kubernetes.io/kube-apiserver-client",
                "request": base64.b64encode(request.public_bytes(serialization.Encoding.PEM)).decode(),
                "usages": ["client auth"],
            },
        }
    )

    plane.kubectl("certificate", "approve", "h1")

    def certificate() -> str | None:
        csr = plane.get("csr", "h1")
        return csr["status"].get("certificate") if csr else None

    issued = base64.b64decode(str(plane.wait_for(certificate, 10, "h1's certificate is issued")))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    credential = Credential(certificate=issued, key=private)
    kubeconfig = tmp_path / "kubeconfig"
    ca = (plane.admin.folder / "ca.crt").read_bytes()
    kubeconfig.write_text(embedded_kubeconfig(plane.server, ca, "h1", credential))
    me = plane.kubectl(f"--kubeconfig={kubeconfig}", "auth", "whoami", "--output=yaml")
    info = yaml.safe_load(me)["status"]["userInfo"]
    assert info["username"] == "hostagent:node:h1"
    assert "hostagent:nodes" in info["groups"]


def test_a_paused_api_server_takes_connections_and_answers_none(plane: ControlPlane, call: Connect) -> None:
    caller = call()
    plane.pause()
    try:
        with pytest.raises(TimeoutError):
            caller.get()
        connect_in(plane.netns, API, PORT, timeout_s=1.0).close()
    finally:
        plane.resume()

    assert call().get().status == 200


@both_families
def test_a_host_cut_off_hears_nothing_on_old_and_new_connections(
    plane: ControlPlane, call: Connect, api: str, host: str
) -> None:
    caller = call(api)
    assert caller.get().status == 200
    plane.cut_off(host)
    plane.cut_off(host)  # asked for a state, not for an act
    try:
        with pytest.raises(TimeoutError):
            caller.get()
        with pytest.raises(TimeoutError):
            call(api)
        assert plane.admin.ready(), "the admin inside is not cut off"
    finally:
        plane.restore(host)
        plane.restore(host)

    assert call(api).get().status == 200


@pytest.mark.parametrize("api", [API, API6], ids=["IPv4", "IPv6"])
def test_a_slow_api_server_resets_old_connections_and_answers_late(
    plane: ControlPlane, call: Connect, api: str
) -> None:
    old = call(api)
    assert old.get().status == 200
    plane.slow(0.5)
    try:
        with pytest.raises(ConnectionError):
            old.get()
        late = call(api)
        began = time.monotonic()
        assert late.get().status == 200
        took_s = time.monotonic() - began
        assert 0.5 <= took_s < 1.5
    finally:
        plane.unslow()

    with pytest.raises(ENDED):
        late.get()
    began = time.monotonic()
    assert call(api).get().status == 200
    assert time.monotonic() - began < 0.5


def test_a_throttling_api_server_says_when_to_come_again(plane: ControlPlane, call: Connect) -> None:
    plane.throttle(retry_after_s=7)
    try:
        throttled = call()
        for _ in range(2):  # on one connection, as clients do
            answer = throttled.get()
            assert (answer.status, answer.headers["Retry-After"]) == (429, "7")
    finally:
        plane.unthrottle()

    assert call().get().status == 200


def test_data_and_identities_outlive_stop_kill_and_etcd(plane: ControlPlane, call: Connect) -> None:
    plane.apply(a_config_map("kept", by="etcd"))

    plane.restart_etcd()
    assert plane.get("ConfigMap", "kept")

    plane.stop()
    assert plane.processes.names() == []
    with pytest.raises(ConnectionRefusedError):
        call()
    plane.start()
    assert plane.get("ConfigMap", "kept")

    plane.kill()
    plane.start()
    kept = plane.get("ConfigMap", "kept")
    assert kept is not None
    assert kept["data"] == {"by": "etcd"}
    assert call().get().status == 200


def test_a_part_that_cannot_start_is_shown_with_its_own_words(segment: Segment, tmp_path: Path) -> None:
    processes = Processes(netns=segment.host, folder=tmp_path)

    processes.start("broken", ["sh", "-c", "echo the disk is full; exit 1"])

    wait_for(lambda: not processes.running("broken"), 5, "it ends")
    assert "the disk is full" in processes.tail("broken")
    processes.stop("broken", grace_s=1.0)
    assert processes.names() == []


def test_a_recorded_number_that_now_is_another_process_is_left_alone(segment: Segment, tmp_path: Path) -> None:
    processes = Processes(netns=segment.host, folder=tmp_path)
    own = Path("/proc/self/stat").read_text()
    before_exec, _, after = own.rpartition(")")
    fields = after.split()
    fields[19] = str(int(fields[19]) - 1)  # started a tick earlier: not us
    (tmp_path / "stranger.stat").write_text(f"{before_exec}) {' '.join(fields)}\n")

    assert not processes.running("stranger")
    processes.stop("stranger", grace_s=0.0)  # we are here to tell
    assert processes.names() == []


_CREATOR = """
import signal, sys
from pathlib import Path
from tests.fabric.assets import PACKAGES, ensure_assets
from tests.fabric.controlplane import ControlPlane
plane = ControlPlane(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
plane.start()
plane.slow(0.1)
plane.pause()
print("up", flush=True)
signal.pause()
"""


def test_teardown_by_another_process_after_the_creator_was_killed(segment: Segment, tmp_path: Path) -> None:
    """The state on disk is enough: the creator dies by SIGKILL with everything running and a fault in force."""
    state = tmp_path / "lab"
    creator = subprocess.Popen(
        [
            sys.executable,
            "-c",
            _CREATOR,
            segment.host,
            HOST,
            str(state),
        ],
        cwd=Path(__file__).resolve().parents[2],
        stdout=subprocess.PIPE,
        text=True,
    )
    with creator:
        assert creator.stdout is not None
        assert creator.stdout.readline() == "up\n"
        creator.kill()

    left = ControlPlane(segment.host, HOST, state)
    pids = [left.processes.pid(name) for name in left.processes.names()]
    assert len(pids) == 4
    assert all(pids)
    left.teardown()

    assert not state.exists()
    assert not processes_in(segment.host)
    rules = subprocess.run(
        ["ip", "netns", "exec", segment.host, "nft", "list", "tables"], capture_output=True, text=True, check=True
    )
    assert rules.stdout == ""
    left.teardown()  # nothing left to do is well too


def test_programs_given_by_the_environment_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With all of them there, neither Go nor the module proxy is asked for."""
    for program in PACKAGES:
        (tmp_path / program).touch(mode=0o755)
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    monkeypatch.setenv("PATH", "/nowhere")

    given = ensure_assets(progress=lambda line: pytest.fail(f"it worked on something: {line}"))

    assert given.kube_apiserver == tmp_path / "kube-apiserver"
    assert given.kubectl == tmp_path / "kubectl"


def processes_in(netns: str) -> list[int]:
    done = subprocess.run(["ip", "netns", "pids", netns], capture_output=True, text=True, check=True)
    return [int(pid) for pid in done.stdout.split()]
