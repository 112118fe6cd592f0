#!/usr/bin/python3
# ruff: noqa: INP001, T201 (a script, whose answer is what it prints)
"""Look whether this host is fit for hostagent. Reads only; standard library only. Prints one JSON object:

`{"addresses": […], "passing": […], "gateways": […], "findings": [{"check", "severity", "says", "remedy"}]}`.

Usage: look.py JSON, with `{"server": "https://…", "max_skew_s": 30, "sysctls": {…}}`: the API server as hosts reach it,
and the kernel settings that the role will make.
"""

import email.utils
import http.client
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import time
import urllib.parse
from pathlib import Path

ETHERNET = "1"  # ARPHRD_ETHER
MANAGERS = {"NetworkManager": "nmcli device reapply", "systemd-networkd": "networkctl reconfigure"}
STRICT = "1"  # rp_filter
FOREVER = 0xFFFFFFFF  # INFINITY_LIFE_TIME, as `ip` prints it
KUBE_PROXY = ("127.0.0.1", 10249)
TIMEOUT_S = 5
TOOLS = {"ip": "iproute2", "nft": "nftables", "openssl": "openssl", "systemctl": "systemd"}


def main():
    asked = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}
    facts = gather(asked.get("server", ""))
    answer = {key: facts[key] for key in ("addresses", "passing", "gateways")}
    print(json.dumps(answer | {"findings": list(judge(facts, asked))}))


# What is so


def gather(server):
    links = [link for link in ip_json("address", "show") if "LOOPBACK" not in link["flags"]]
    return {
        "links": [describe(link) for link in links],
        "addresses": [entry["local"] for link in links for entry in link["addr_info"] if entry["scope"] == "global"],
        "passing": [entry["local"] for link in links for entry in link["addr_info"] if passes(entry, link)],
        "gateways": [
            route["gateway"]
            for family in ("-4", "-6")
            for route in ip_json(family, "route", "show", "default")
            if "gateway" in route
        ],
        "tools": [tool for tool in TOOLS if shutil.which(tool, path="/usr/sbin:/usr/bin:/sbin:/bin")],
        "sysctls": {name: sysctl(name) for name in ("net.ipv4.conf.all.arp_ignore", "net.ipv4.conf.all.rp_filter")},
        "proxy_mode": proxy_mode(),
        "managers": [name for name in MANAGERS if active(name)],
        "clock_synchronized": clock_synchronized(),
        "api": api(server) if server else None,
    }


def ip_json(*words):
    done = subprocess.run(["ip", "-json", *words], capture_output=True, text=True, check=False)
    return [each for each in json.loads(done.stdout or "[]") if each]


def passes(entry, link):
    """Whether an address is a VIP that this host has for now: alone in its subnet, with a lifetime, or kube-proxy's."""
    alone = entry["prefixlen"] == (32 if entry["family"] == "inet" else 128)
    return link["ifname"] == "kube-ipvs0" or (alone and entry["valid_life_time"] < FOREVER)


def describe(link):
    name = link["ifname"]
    return {
        "name": name,
        "ethernet": read(f"/sys/class/net/{name}/type") == ETHERNET,
        "member": "master" in link,
        "carrier": "LOWER_UP" in link["flags"],
        "addresses": [entry["local"] for entry in link["addr_info"] if entry["scope"] == "global"],
        "arp": "NOARP" not in link["flags"],
        "rp_filter": sysctl(f"net.ipv4.conf.{name.replace('.', '/')}.rp_filter"),
        "arp_ignore": sysctl(f"net.ipv4.conf.{name.replace('.', '/')}.arp_ignore"),
    }


def read(path):
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def sysctl(name):
    """Dots part the name; a slash stands for a dot in it, as sysctl(8) has it."""
    return read("/proc/sys/" + name.translate(str.maketrans("./", "/.")))


def active(unit):
    argv = ["systemctl", "is-active", "--quiet", unit]
    try:
        return not subprocess.run(argv, capture_output=True, check=False, timeout=TIMEOUT_S).returncode
    except (OSError, subprocess.TimeoutExpired):
        return False


def clock_synchronized():
    """None where nobody can tell."""
    try:
        done = subprocess.run(
            ["timedatectl", "show", "--property=NTPSynchronized", "--value"],
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return {"yes": True, "no": False}.get(done.stdout.strip())


def proxy_mode():
    """What kube-proxy says of itself; empty if none answers here."""
    connection = http.client.HTTPConnection(*KUBE_PROXY, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/proxyMode")
        answer = connection.getresponse()
        return answer.read(32).decode(errors="replace").strip() if answer.status == http.client.OK else ""
    except (OSError, http.client.HTTPException):
        return ""
    finally:
        connection.close()


def api(server):
    """Whether an API server answers, whatever it says: `error`, or by how much its clock is `ahead_s` of ours."""
    where = urllib.parse.urlsplit(server)
    context = ssl._create_unverified_context()  # noqa: S323, SLF001  # who it is, is asked when there is a CA to ask with
    connection = http.client.HTTPSConnection(where.hostname, where.port or 443, timeout=TIMEOUT_S, context=context)
    try:
        connection.request("GET", "/version")
        answer = connection.getresponse()
        answer.read()
        date = email.utils.parsedate_to_datetime(answer.headers["Date"]) if "Date" in answer.headers else None
        return {"error": "", "ahead_s": date.timestamp() - time.time() if date else 0.0}
    except (OSError, http.client.HTTPException) as exc:
        return {"error": str(exc) or type(exc).__name__, "ahead_s": 0.0}
    finally:
        connection.close()


# What of it is not as it should be


def judge(facts, asked):
    yield from tools(facts)
    yield from interfaces(facts)
    yield from filters(facts, asked.get("sysctls", {}))
    yield from kube_proxy(facts, asked.get("sysctls", {}))
    yield from managers(facts)
    yield from clock(facts, asked.get("max_skew_s", 30))
    yield from reach(facts, asked.get("server", ""))


def finding(check, severity, says, remedy):
    return {"check": check, "severity": severity, "says": says, "remedy": remedy}


def tools(facts):
    for tool, package in TOOLS.items():
        if tool not in facts["tools"]:
            yield finding(
                "tools", "warning", f"there is no {tool}",
                f"install {package}; with hostagent_manage_packages the role does",
            )  # fmt: skip


def interfaces(facts):
    able = [link for link in facts["links"] if link["ethernet"] and link["arp"] and not link["member"]]
    if not any(link["carrier"] and link["addresses"] for link in able):
        yield finding(
            "interfaces",
            "error",
            "no Ethernet interface has a carrier and an address: nobody could hear this host answer",
            "hostagent needs one on the VIPs' segment, or the Node's own",
        )
    for link in able:
        if link["arp_ignore"] in ("2", "8"):  # 2: a VIP is a /32, in whose subnet nobody else is
            yield finding(
                "arp-ignore",
                "error",
                f"{link['name']} has arp_ignore={link['arp_ignore']}: the kernel would not answer ARP for VIPs",
                f"set net.ipv4.conf.{link['name']}.arp_ignore to 0 or 1",
            )


def filters(facts, wanted):
    """The kernel takes the stricter of `all` and the interface's own (ip-sysctl.txt)."""
    most = wanted.get("net.ipv4.conf.all.rp_filter", facts["sysctls"]["net.ipv4.conf.all.rp_filter"])
    links = [link for link in facts["links"] if link["ethernet"] and link["addresses"] and not link["member"]]
    strict = [link["name"] for link in links if max(str(most), link["rp_filter"]) == STRICT]
    if len(links) > 1 and strict:
        yield finding(
            "rp-filter",
            "warning",
            f"rp_filter is strict on {', '.join(strict)}, and this host has {len(links)} interfaces: it would drop clients' "
            "packets that come in by another interface than the answer goes out by",
            "set it to 2 (loose) where VIPs are, for example by hostagent_sysctls",
        )


def kube_proxy(facts, wanted):
    mode = facts["proxy_mode"]
    if not mode:
        yield finding(
            "kube-proxy",
            "note",
            "no kube-proxy answers at 127.0.0.1:10249",
            "something must bring traffic from the host to pods: kube-proxy, or a CNI that replaces it",
        )
    ignore = wanted.get("net.ipv4.conf.all.arp_ignore", facts["sysctls"]["net.ipv4.conf.all.arp_ignore"])
    if mode == "ipvs" and str(ignore) == "0":
        yield finding(
            "kube-proxy",
            "error",
            "kube-proxy runs in IPVS mode and arp_ignore is 0: this host would answer for every VIP",
            "leave net.ipv4.conf.all.arp_ignore: 1 in hostagent_sysctls, or set strictARP: true",
        )


def managers(facts):
    for name, command in MANAGERS.items():
        if name in facts["managers"]:
            yield finding(
                "network-manager",
                "note",
                f"{name} configures interfaces here: `{command}` may take VIPs off, the agent puts them back at once",
                "none is needed; docs/install.md says how long clients miss a VIP, and what the role sets against it",
            )


def clock(facts, max_skew_s):
    if facts["clock_synchronized"] is False:
        yield finding(
            "clock",
            "warning",
            "the clock is not synchronized",
            "run chrony or systemd-timesyncd: certificates, and whoever reads journals, need the time",
        )
    ahead = facts["api"]["ahead_s"] if facts["api"] else 0.0
    if abs(ahead) > max_skew_s:
        yield finding(
            "clock",
            "error",
            f"the clock is {abs(ahead):.0f} s {'behind' if ahead > 0 else 'ahead of'} the API server's",
            "set it right: certificates are good from a moment to a moment",
        )


def reach(facts, server):
    if facts["api"] and facts["api"]["error"]:
        yield finding(
            "api",
            "error",
            f"the API server {server} does not answer this host: {facts['api']['error']}",
            "routing, firewall, or another hostagent_access_server",
        )


if __name__ == "__main__":
    os.umask(0o077)
    main()
