"""The script `edge-fleet`: says which extra to install where the device's installation is all there is."""

import sys

OWN_PACKAGES = ("edge_agent", "edge_fleet")


def main() -> int:
    """Run the command line; return its exit code."""
    try:
        from edge_fleet import cli
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in OWN_PACKAGES:
            raise
        sys.stderr.write(
            f"edge-fleet: {package} is not installed; "
            "install it with: pip install 'edge-inference-agent[fleet]'.\n"
        )
        return 2
    return cli.main()
