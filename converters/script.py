"""The script `edge-convert`: answers Ctrl-C from the start, and names a package that is missing."""

import sys

INTERRUPTED = 130
OWN_PACKAGES = ("edge_agent", "converters")


def main() -> int:
    """Run the command line; return its exit code."""
    try:
        from converters import cli

        return cli.main()
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in OWN_PACKAGES:
            raise
        sys.stderr.write(
            f"edge-convert: {package} is not installed; "
            "install it with: pip install 'edge-inference-agent[convert]'.\n"
        )
        return 2
    except KeyboardInterrupt:
        # Before the command line could answer it itself: its modules take a moment to import.
        sys.stderr.write("\nedge-convert: interrupted; nothing was written.\n")
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
