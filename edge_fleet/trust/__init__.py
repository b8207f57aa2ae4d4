"""The store's signed metadata: the one package of the fleet tools that touches tuf and securesystemslib."""
