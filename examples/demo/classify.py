"""Ask a running agent which type a file has: `python -m examples.demo.classify FILE … --socket PATH`.

Labels come with the model's manifest in the store; here they are read from Magika's package.
"""

import argparse
import sys
from pathlib import Path

from edge_agent.client import Client
from edge_agent.documents.errors import EdgeAgentError
from examples.demo.files import features
from examples.demo.packages import magika_labels


def main() -> int:
    """Print a label and its score for each file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--socket", help="the agent's inference socket")
    args = parser.parse_args()
    labels = magika_labels()
    try:
        with Client(args.socket) as client:
            for path in args.files:
                result = client.infer("magika", features(path.read_bytes()))
                (scores,) = result.outputs.values()
                best = int(scores[0].argmax())
                print(f"{path}: {labels[best]} ({scores[0, best]:.0%}, version {result.model_version})")
    except (EdgeAgentError, OSError) as error:
        sys.exit(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
