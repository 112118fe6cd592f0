"""The neighbours on this host's segments, through ARP and NDP."""

from hostagent.edges.neighbors.neighbors import Counters, Neighbors

__all__ = ["Counters", "Neighbors"]
