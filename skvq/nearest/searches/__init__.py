"""The searches, each written once over what a backend does."""
