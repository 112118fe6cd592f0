"""The test fabric: a real control plane, systemd hosts and a segment, on one machine."""
