"""This host's interfaces and the VIPs on them, through rtnetlink."""

from hostagent.edges.netlink.addresses import KernelAddresses
from hostagent.edges.netlink.monitor import Event, LinkChanged, Resync

__all__ = ["Event", "KernelAddresses", "LinkChanged", "Resync"]
