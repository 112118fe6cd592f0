"""FRR on this host, through the sockets that its daemons have for vtysh."""

from hostagent.edges.frr.router import FILE, RUN_DIR, FrrRouter, frr_present
from hostagent.edges.frr.routes import FrrRoutes

__all__ = ["FILE", "RUN_DIR", "FrrRouter", "FrrRoutes", "frr_present"]
