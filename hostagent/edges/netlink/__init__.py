"""This host's interfaces, the VIPs on them, and the routes that BGP announces, through rtnetlink."""

from hostagent.edges.netlink.addresses import KernelAddresses
from hostagent.edges.netlink.monitor import Event, LinkChanged, Resync
from hostagent.edges.netlink.routes import KernelRoutes

__all__ = ["Event", "KernelAddresses", "KernelRoutes", "LinkChanged", "Resync"]
