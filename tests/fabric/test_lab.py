"""The lab does what the other tests take for granted: hosts fail as asked, and the evidence tells it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.fabric import netns
from tests.fabric.admin import wait_for
from tests.fabric.backends import BACKEND_PORT, endpoint_slices, service, set_ingress, start_backend
from tests.fabric.client import url_of
from tests.fabric.fixtures import MakeLab
from tests.fabric.hosts import PROJECT, Host
from tests.fabric.lab import Lab
from tests.fabric.listener import Kind
from tests.fabric.processes import in_namespace
from tests.fabric.remains import remains
from tests.fabric.segment import Direction, Loss, Partition
from tests.fabric.state import LabState

pytestmark = pytest.mark.fabric

VIP, VIP6 = "198.51.100.64", "2001:db8:51:0:1::1"


@pytest.fixture(scope="module")
def pair(make_lab: MakeLab) -> Lab:
    """Two hosts and a control plane; each test leaves both hosts running and whole."""
    return make_lab(hosts=2)


@pytest.fixture
def h1(pair: Lab) -> Iterator[Host]:
    """A host to be broken; whole again afterwards."""
    host = pair.host("h1")
    yield host
    if host.hung:
        host.thaw()
    host.boot()
    host.cable_plug()
    pair.segment.set_faults()
    pair.client.forget_neighbours()


def hold(host: Host, *vips: str) -> None:
    """Put VIPs on the host by hand; a power-off or a reboot takes them away."""
    for vip in vips:
        options = ["nodad"] if ":" in vip else []
        host.run(["ip", "address", "replace", vip, "dev", "eth0", *options])


def drop(host: Host, *vips: str) -> None:
    for vip in vips:
        host.run(["ip", "address", "delete", vip, "dev", "eth0"], check=False)


def test_hosts_are_real_systemd_machines(pair: Lab) -> None:
    for name, host in pair.hosts.items():
        assert host.system_state() == "running", host.run(["systemctl", "--failed"]).stdout
        assert host.run(["hostname"]).stdout.strip() == name
        assert host.run(["stat", "-fc", "%T", "/sys/fs/cgroup"]).stdout.strip() == "cgroup2fs"


def test_the_client_reaches_hosts_over_both_families(pair: Lab) -> None:
    for host in pair.hosts.values():
        assert [address for address in host.addresses if not pair.client.pings(address)] == []


def test_a_backend_answers_with_its_hosts_name(pair: Lab) -> None:
    for name, host in pair.hosts.items():
        start_backend(host)
        for address in host.addresses:
            assert pair.client.get(url_of(address, BACKEND_PORT)).backend == name


def test_files_and_the_journal_are_readable_with_the_power_off(h1: Host) -> None:
    h1.write_file("/etc/lab-test", "before\n")
    h1.run(["logger", "--tag", "lab-test", "the last words"])
    h1.run(["journalctl", "--sync"])
    h1.power_off()

    assert h1.read_file("/etc/lab-test") == "before\n"
    assert [entry["MESSAGE"] for entry in h1.journal(None, "SYSLOG_IDENTIFIER=lab-test")] == ["the last words"]

    h1.write_file("/etc/lab-test", "after\n", mode=0o600)
    h1.boot()
    assert h1.run(["sh", "-c", "cat /etc/lab-test; stat -c %a /etc/lab-test"]).stdout == "after\n600\n"


def test_power_off_silences_a_host_at_once(pair: Lab, h1: Host) -> None:
    hold(h1, VIP, VIP6)
    with pair.listening(ask=[VIP, VIP6], ask_every_ms=5) as listener:
        wait_for(lambda: listener.answers(VIP) and listener.answers(VIP6), 5, "h1 answers for both")
        h1.power_off()
        off_at = time.monotonic()
        time.sleep(0.3)  # the claim is about what does not come

        assert listener.answers(since_s=off_at) == []
        assert {answer.host for answer in listener.answers()} >= {"h1"}
    assert not pair.client.pings(VIP)


def test_a_hung_host_goes_on_answering_arp(pair: Lab, h1: Host) -> None:
    hold(h1, VIP)
    h1.hang()
    hung_at = time.monotonic()
    with pair.listening(ask=[VIP]) as listener:
        wait_for(lambda: listener.answers(VIP, since_s=hung_at), 5, "the hung host's kernel answers")
    assert pair.client.pings(VIP)
    assert pair.client.answers(url_of(VIP, BACKEND_PORT), timeout_s=0.3) is None
    h1.thaw()
    drop(h1, VIP)
    assert h1.system_state() == "running"


def test_a_pulled_cable_is_a_lost_carrier(pair: Lab, h1: Host) -> None:
    h1.cable_pull()
    assert h1.run(["cat", "/sys/class/net/eth0/carrier"]).stdout == "0\n"
    assert not pair.client.pings(h1.addresses[0])
    assert h1.addresses[0] in h1.run(["ip", "address"]).stdout  # as on a Debian server: static addresses stay

    h1.cable_plug()
    wait_for(lambda: pair.client.pings(h1.addresses[0]), 10, "h1 is back on the wire")


def test_a_card_taken_out_takes_its_addresses_along_and_comes_back_the_same(pair: Lab, h1: Host) -> None:
    mac, addresses = h1.mac, set(h1.addresses)
    assert addresses <= h1.kernel_addresses()
    h1.card_remove()
    assert not addresses & h1.kernel_addresses()

    h1.card_insert()
    assert addresses <= h1.kernel_addresses()
    assert h1.run(["cat", "/sys/class/net/eth0/address"]).stdout.strip() == mac
    for address in h1.addresses:
        wait_for(partial(pair.client.pings, address), 10, f"{address} is back on the wire")


def test_the_addresses_of_a_hung_host_are_known_and_one_that_is_off_has_none(h1: Host) -> None:
    hold(h1, VIP)
    h1.hang()
    assert VIP in h1.kernel_addresses()
    h1.power_off()
    assert h1.kernel_addresses() == set()


def test_a_stranger_announces_and_answers_and_is_gone_without_trace(pair: Lab) -> None:
    with pair.listening(ask=[VIP]) as listener:
        with pair.segment.stranger(f"{VIP}/32"):
            wait_for(lambda: {each.kind for each in listener.answers(VIP)} >= {Kind.GARP, Kind.REPLY}, 5, "it is there")
        gone_at = time.monotonic()
        time.sleep(0.3)  # the claim is about what does not come
        assert {each.host for each in listener.answers(VIP)} == {"?"}
        assert listener.answers(VIP, since_s=gone_at) == []
    assert not netns.exists(pair.state.stranger_netns)


def test_a_reboot_is_a_new_boot_of_the_same_machine(pair: Lab, h1: Host) -> None:
    before, mac = h1.pid, h1.mac
    h1.reboot()

    assert h1.pid != before
    assert h1.run(["cat", "/sys/class/net/eth0/address"]).stdout.strip() == mac
    assert len(h1.run(["journalctl", "--quiet", "--list-boots"]).stdout.splitlines()) >= 2
    assert pair.client.pings(h1.addresses[0], count=5)


def test_an_orderly_shutdown_stops_units(h1: Host) -> None:
    h1.write_file(
        "/run/systemd/system/farewell.service",
        "[Service]\nType=oneshot\nRemainAfterExit=yes\n"
        "ExecStart=/bin/true\nExecStop=/usr/bin/touch /etc/said-farewell\n",
    )
    h1.run(["systemctl", "start", "farewell.service"])
    h1.shutdown()

    assert not h1.running
    assert h1.read_file("/etc/said-farewell") == ""


@pytest.mark.parametrize("vip", [VIP, VIP6])
def test_the_pinger_measures_how_long_an_address_was_away(pair: Lab, h1: Host, vip: str) -> None:
    hold(h1, vip)
    with pair.client.pinging(vip) as pings:
        time.sleep(0.3)
        gone_at = time.monotonic()
        # Away by a lossy wire: the client's neighbour entry stays, so no resolution delays the return.
        pair.segment.set_faults(Loss(host="h1", direction=Direction.SENDS))
        time.sleep(0.5)
        pair.segment.set_faults()
        away_ms = (time.monotonic() - gone_at) * 1000
        time.sleep(0.3)

    assert pings.result.sent >= 50
    assert len(pings.result.windows) == 1
    assert 400 < pings.result.longest_gap_ms < away_ms + 200  # a busy machine pings late, never wrongly
    drop(h1, vip)


def test_the_pinger_tells_several_addresses_apart(pair: Lab, h1: Host) -> None:
    hold(h1, VIP, VIP6)
    with pair.client.pinging(VIP, VIP6) as pings:
        drop(h1, VIP6)
        time.sleep(0.3)  # a loss must have time to show
    assert pings.results[VIP].lost == 0
    assert pings.results[VIP6].lost > 5
    drop(h1, VIP)


def test_a_steady_address_loses_no_ping(pair: Lab) -> None:
    with pair.client.pinging(pair.host("h2").addresses[0]) as pings:
        time.sleep(1)
    assert (pings.result.lost, pings.result.sent > 50) == (0, True)


@pytest.mark.parametrize("vip", [VIP, VIP6])
def test_the_listener_sees_who_answers_and_who_takes_over(pair: Lab, vip: str) -> None:
    h1, h2 = pair.hosts.values()
    with pair.listening(ask=[vip], ask_every_ms=20) as listener:
        hold(h1, vip)
        wait_for(lambda: [each.host for each in listener.holders(vip)] == ["h1"], 5, "h1 answers")
        drop(h1, vip)
        hold(h2, vip)
        wait_for(lambda: [each.host for each in listener.holders(vip)] == ["h1", "h2"], 5, "h2 answers")
        assert listener.relapses(vip, 1000) == []

        hold(h1, vip)  # now there are two
        wait_for(lambda: listener.relapses(vip, 1000), 5, "both answer")
        assert listener.double_answers(vip, 1000)
    drop(h1, vip)
    drop(h2, vip)


def test_a_partition_parts_hosts_from_each_other_only(pair: Lab, h1: Host) -> None:
    h2_address = pair.host("h2").addresses[0]
    ping = ["ping", "-q", "-c1", "-W1", h2_address]
    pair.segment.set_faults(Partition(one=frozenset({"h1"}), other=frozenset({"h2"})))

    assert h1.run(ping, check=False).returncode == 1
    assert pair.client.pings(h1.addresses[0])
    assert pair.client.pings(h2_address)

    pair.segment.set_faults()
    assert h1.run(ping, check=False).returncode == 0


def test_a_request_travels_to_the_vip_and_on_to_another_hosts_backend(pair: Lab) -> None:
    h1, h2 = pair.hosts.values()
    start_backend(h2)
    plane = pair.control_plane
    web = service("web", families=["IPv4", "IPv6"])
    plane.apply([web, *endpoint_slices(web, [h2])])
    set_ingress(plane, web, [VIP, VIP6])
    hold(h1, VIP, VIP6)
    try:
        for vip in (VIP, VIP6):
            wait_for(partial(_h2_answers, pair, vip), 30, f"h2 answers for {vip}")
        with pair.client.probing(url_of(VIP, 80)) as probes:
            wait_for(lambda: len(probes.answers) >= 5, 10, "five requests")
        assert {backend for _, backend in probes.answers} == {"h2"}
    finally:
        drop(h1, VIP, VIP6)
        plane.delete("service", "web")


def _h2_answers(lab: Lab, vip: str) -> bool:
    return lab.client.answers(url_of(vip, 80)) == "h2"


def test_ssh_and_the_connection_plugin_reach_a_host(pair: Lab, tmp_path: Path) -> None:
    for connection in ("ssh", "labhost"):
        inventory = tmp_path / f"{connection}.json"
        inventory.write_text(json.dumps(_static(pair.inventory(connection=connection))))
        argv = in_namespace(
            pair.state.netns,
            [Path(sys.executable).parent / "ansible", "-i", inventory, "lab_hosts", "-m", "command", "-a", "hostname"],
        )
        plugins = str(PROJECT / "tests/fabric/ansible/connection_plugins")
        environment = {**os.environ, "ANSIBLE_CONNECTION_PLUGINS": plugins, "ANSIBLE_HOME": str(tmp_path)}
        done = subprocess.run(argv, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def _static(inventory: dict[str, object]) -> dict[str, object]:
    """The same as a static YAML inventory, of which JSON is a kind."""
    meta, every, group = inventory["_meta"], inventory["all"], inventory["lab_hosts"]
    assert isinstance(meta, dict)
    assert isinstance(every, dict)
    assert isinstance(group, dict)
    hosts = {name: meta["hostvars"][name] for name in group["hosts"]}
    return {"all": {"vars": every["vars"], "children": {"lab_hosts": {"hosts": hosts}}}}


@pytest.mark.usefixtures("fabric_machine")
def test_down_leaves_nothing() -> None:
    name = f"test-{os.getpid()}-gone"
    lab = Lab.up(name, hosts=1)
    lab.host("h1").hang()
    Lab.down(name)
    assert remains(name) == []
    Lab.down(name)


@pytest.mark.usefixtures("fabric_machine")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_up_leaves_nothing(number: signal.Signals) -> None:
    name = f"test-{os.getpid()}-half"
    with _going_up(name) as up:
        up.send_signal(number)
        assert up.wait(60) != 0
    assert remains(name) == []


@pytest.mark.usefixtures("fabric_machine")
def test_down_removes_what_a_killed_up_left() -> None:
    name = f"test-{os.getpid()}-killed"
    with _going_up(name) as up:
        up.kill()
    assert remains(name) != []
    Lab.down(name)
    assert remains(name) == []


def _going_up(name: str) -> subprocess.Popen[bytes]:
    """A process that is making a lab, and has got to its hosts."""
    up = subprocess.Popen(
        [sys.executable, "-m", "tests.fabric", "up", "--name", name, "--hosts", "2"],
        cwd=PROJECT,
        stderr=subprocess.DEVNULL,
    )
    hosts = LabState(name=name).folder / "hosts"
    wait_for(lambda: list(hosts.glob("*/leader.pid")) or up.poll() is not None, 60, "hosts are booting", every_s=0.01)
    return up
