"""The Kubernetes API: credentials, transport, watches, and the few things that we write."""
