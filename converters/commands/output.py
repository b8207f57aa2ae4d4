"""What the commands print for programs."""

import json
import sys


def print_json(content: object) -> None:
    """Print one JSON document on standard output."""
    sys.stdout.write(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
