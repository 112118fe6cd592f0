"""The neighbours on this host's segments, through ARP and NDP."""

from hostagent.edges.neighbors.counters import Counters
from hostagent.edges.neighbors.neighbors import Neighbors

__all__ = ["Counters", "Neighbors"]
