"""Install all peers, before anything is measured: servers close connections that idle while others install."""

from benchmarks.serving.peers import python_servers, triton
from benchmarks.serving.peers.environment import environment


def install_all() -> None:
    """Make the environments that are not there; takes some minutes and 2 GB the first time."""
    environment("triton", *triton.PACKAGES)
    for name, packages in python_servers.PACKAGES.items():
        environment(name, *packages)
