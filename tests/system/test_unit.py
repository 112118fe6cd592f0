"""hostagent as a systemd service: what systemd does with it, and what its journal tells."""

from __future__ import annotations

import json

from tests.fabric.hosts import Host
from tests.system.cluster import Cluster, Object

AGENT = "hostagent.service"
GIVES_UP_WITHIN_S = 60.0  # ten starts of a Python that finds no packages, on a busy machine


def served(cluster: Cluster) -> tuple[str, Host]:
    """A VIP and who holds it."""
    cluster.pool()
    cluster.advertise()
    cluster.serve("web")
    [vip] = cluster.given("web")
    return vip, cluster.held(vip)


def journal(host: Host, *arguments: str) -> list[Object]:
    said = host.run(["journalctl", "--no-pager", "--all", "--output=json", *arguments]).stdout  # long ones too
    return [json.loads(line) for line in said.splitlines()]


def test_an_agent_that_cannot_stay_up_makes_room_without_api_and_without_python_packages(cluster: Cluster) -> None:
    """It moves once, when systemd gives up, and not at each attempt; the cleaner has only the standard library."""
    vip, holder = served(cluster)
    packages = "/opt/hostagent/venv/lib"
    api = cluster.lab.control_plane.server.removeprefix("https://").partition(":")[0]
    before = cluster.transitions()[f"vip.{vip}"]
    holder.run(["mv", packages, f"{packages}.away"])
    holder.run(["ip", "route", "add", "blackhole", f"{api}/32"])
    try:
        holder.run(["systemctl", "kill", "--signal=KILL", AGENT])
        cluster.until(lambda: cluster.holders(vip) not in ([], [holder.name]), "another holder", GIVES_UP_WITHIN_S)
        assert holder.run(["systemctl", "is-failed", AGENT]).stdout.strip() == "failed"
        assert "Start request repeated too quickly" in holder.journal_text("hostagent")
        assert holder.run(["nft", "list", "table", "inet", "hostagent"], check=False).returncode != 0
        assert cluster.transitions()[f"vip.{vip}"] == before + 1
    finally:
        holder.run(["ip", "route", "del", "blackhole", f"{api}/32"])
        holder.run(["mv", f"{packages}.away", packages])


def test_a_host_that_reboots_hands_over_before_its_network_and_its_pods_stop(cluster: Cluster) -> None:
    vip, holder = served(cluster)
    holder.reboot()
    cluster.everybody_runs()
    entries = journal(holder, "--boot=-1")
    at = {each.get("MESSAGE", ""): number for number, each in enumerate(entries)}
    stopped = at[f"{holder.name} stopped in order"]
    let_go = next(n for text, n in at.items() if text.startswith(f"{vip} is no longer answered here: handed-over"))
    network = next(n for text, n in at.items() if text.startswith("Stopped target network.target"))
    assert let_go < stopped < network


def test_the_journal_tells_a_vips_life_and_what_to_do_about_what_went_wrong(cluster: Cluster) -> None:
    vip, holder = served(cluster)
    cluster.serve("other")
    [other] = cluster.given("other")
    holder.run(["ip", "address", "del", f"{vip}/32", "dev", "eth0"])
    asked = ("--unit=hostagent", f"HOSTAGENT_VIP={vip}")

    def told() -> list[str]:
        return [each["HOSTAGENT_EVENT"] for each in journal(holder, *asked)]

    cluster.until(lambda: told()[-2:] == ["vip.removed-by-other", "vip.announced"], "it to be put back")
    assert not [each for each in journal(holder, *asked) if other in each["MESSAGE"]]
    explained = holder.run(["journalctl", "--no-pager", "--catalog", *asked]).stdout
    assert "To do: Keep that tool from removing foreign addresses." in explained
