"""`make demo`: from a model file to a fleet that knows how it does, told in numbered steps."""

import argparse
import signal
import sys
from types import FrameType

from examples.demo.broker import Broker
from examples.demo.machine import DemoError, Machine, stop_earlier
from examples.demo.narrator import Narrator
from examples.demo.story import Story


def main() -> int:
    """Tell the story; 0 if everything in it came true."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave store, broker and agent running afterwards")
    parser.add_argument(
        "--broker", metavar="URL", help="use this MQTT 5 broker, mqtt://HOST[:PORT], and no own"
    )
    parser.add_argument("--stop", action="store_true", help="end what an earlier --keep left running")
    args = parser.parse_args()
    narrator = Narrator()
    if stop_earlier():
        narrator.say("Stopped the demo that was still running.")
    if args.stop:
        return 0
    signal.signal(signal.SIGTERM, _interrupt)
    machine = Machine(narrator)
    try:
        Story(narrator, machine, Broker(machine, args.broker)).tell(keep=args.keep)
    except DemoError as error:
        sys.stdout.flush()
        sys.stderr.write(f"\nThe demo failed: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("\nInterrupted; what runs in the background is being stopped.\n")
        return 130
    finally:
        machine.stop()
    return 0


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
