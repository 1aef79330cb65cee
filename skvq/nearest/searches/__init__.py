"""The searches, each written once over the interface of a backend."""
