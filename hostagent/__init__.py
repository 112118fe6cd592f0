"""LoadBalancer Services for bare-metal Kubernetes, answered by the hosts themselves."""

__version__ = "0.1.0"
