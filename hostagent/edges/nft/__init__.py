"""The guard around VIPs, through nftables."""

from hostagent.edges.nft.guard import Guard

__all__ = ["Guard"]
