"""What is wrong with the VIPs when all hosts are heard: one line each, naming the VIP; nothing when all is well.

Reads from standard input a JSON list with one entry for each host: `host`, `status` (of `hostagent status --output
json`) and `kernel` (of `ip -json address show`). Runs on the control machine; the standard library only.
"""

import json
import sys


def disagreements(hosts):
    found = []
    on_kernel = {}  # address → nodes that have it on an interface
    for host in hosts:
        for link in host["kernel"]:
            for address in link.get("addr_info", ()):
                on_kernel.setdefault(address.get("local"), []).append(host["status"]["node"])
    told = {}  # VIP → node → its entry
    for host in hosts:
        for vip in host["status"]["vips"]:
            told.setdefault(vip["vip"], {})[host["status"]["node"]] = vip
    for vip, by_node in sorted(told.items()):
        holders = {entry["holder"] for entry in by_node.values()}
        have = sorted(set(on_kernel.get(vip, ())))
        if len(holders) > 1:
            says = ", ".join(f"{node}: {entry['holder'] or 'nobody'}" for node, entry in sorted(by_node.items()))
            found.append(f"{vip}: the agents do not agree on who holds it ({says}). Ask again in a moment.")
            continue
        (holder,) = holders
        candidates = sorted({each for entry in by_node.values() for each in entry["candidates"]})
        if holder is None and candidates:
            found.append(f"{vip}: nobody holds it, though {', '.join(candidates)} may")
        elif holder is not None and holder in {host["status"]["node"] for host in hosts} and have != [holder]:
            found.append(f"{vip}: {holder} holds it, and it is on the interfaces of {', '.join(have) or 'no host'}")
        elif holder is not None and set(have) - {holder}:
            found.append(f"{vip}: {holder}, which was not asked, holds it, and it is on the interfaces of {', '.join(have)}")
    versions = {}
    for host in hosts:
        versions.setdefault(host["status"]["version"], []).append(host["status"]["node"])
    if len(versions) > 1:
        says = "; ".join(f"{version}: {', '.join(sorted(nodes))}" for version, nodes in sorted(versions.items()))
        found.append(f"hosts run different versions ({says}). Finish the upgrade: playbooks/upgrade.yml")
    return found


if __name__ == "__main__":
    print("\n".join(disagreements(json.load(sys.stdin))))
