"""What hosts tell about themselves in small objects of their own: ServiceL2Status and its like."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hostagent.model.names import Labels

NODE_LABEL = "metallb.io/node"
"""On ServiceL2Status and ServiceBGPStatus: whose object it is."""
STATE_NODE_LABEL = "metallb.io/node-name"
"""The same on a ConfigurationState."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind whose objects hosts write, one owner each."""

    name: str
    plural: str
    owner_label: str
    """The label that names the node that an object belongs to."""


SERVICE_L2_STATUS = Kind(name="ServiceL2Status", plural="servicel2statuses", owner_label=NODE_LABEL)
SERVICE_BGP_STATUS = Kind(name="ServiceBGPStatus", plural="servicebgpstatuses", owner_label=NODE_LABEL)
CONFIGURATION_STATE = Kind(name="ConfigurationState", plural="configurationstates", owner_label=STATE_NODE_LABEL)
IP_ADDRESS_POOL = Kind(name="IPAddressPool", plural="ipaddresspools", owner_label="")
"""People's objects, of which only the status is ours."""
STATUS_KINDS = (SERVICE_L2_STATUS, SERVICE_BGP_STATUS, CONFIGURATION_STATE)


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusObject:
    """One such object as it should be, or as it is."""

    name: str
    labels: Labels = field(default_factory=dict)
    status: dict[str, Any] = field(default_factory=dict)
    """Entries of `conditions` need no `lastTransitionTime`: it is set where a condition's `status` changes."""
