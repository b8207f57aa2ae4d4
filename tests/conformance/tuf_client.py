#!/usr/bin/env python3
"""The agent's trust module as a client for the TUF project's conformance suite (its CLIENT-CLI.md).

    tuf_client.py --metadata-dir D init ROOT
    tuf_client.py --metadata-dir D --metadata-url U refresh
    tuf_client.py --metadata-dir D --metadata-url U --target-name T [--target-name T ...]
                  --target-dir X --target-base-url B download

Exits 0 if all went well, else 1. The agent keeps its trust folder in `D/.trust`; what it trusts is copied to D
after each command, by the names that the suite looks for.
"""

import argparse
import os
import sys
from contextlib import AbstractContextManager, closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))
try:
    from edge_agent.control.fetch import HttpStore, Polled
    from edge_agent.control.trust import Trust
    from edge_agent.documents.errors import EdgeAgentError, NotFoundError
    from edge_agent.documents.settings import StoreSettings
    from edge_agent.policy.trusted_time import Times
    from edge_agent.store.blobs import Stream
    from edge_agent.store.files import write_atomically
except ModuleNotFoundError:  # `env python3` is not the Python that the agent is installed for
    python = REPOSITORY / ".venv/bin/python"
    if not python.exists() or Path(sys.prefix) == python.parents[1]:
        raise
    os.execv(python, [str(python), *sys.argv])

MAX_TARGET_BYTES = 2**30


class TwoStores:
    """A store whose metadata and targets have base URLs of their own."""

    def __init__(self, metadata_url: str, targets_url: str | None) -> None:
        urls = {"metadata": metadata_url, "targets": targets_url}
        self._stores = {folder: HttpStore(StoreSettings(url=url)) for folder, url in urls.items()}

    def get(self, path: str, max_bytes: int) -> bytes:
        """Return a file of `metadata/` or `targets/`."""
        folder, _, rest = path.partition("/")
        return self._stores[folder].get(rest, max_bytes)

    def poll(self, path: str, max_bytes: int, etag: str | None) -> Polled:
        """Trust only gets."""
        raise NotImplementedError

    def stream(self, path: str, offset: int) -> AbstractContextManager[Stream]:
        """Trust only gets."""
        raise NotImplementedError

    def close(self) -> None:
        """Close both."""
        for store in self._stores.values():
            store.close()


def main() -> int:
    """Run one command."""
    args = parse(sys.argv[1:])
    try:
        if args.command == "init":
            init(args.metadata_dir, args.root)
        else:
            update(args)
    except (EdgeAgentError, OSError) as error:
        print(f"tuf_client: {error}", file=sys.stderr)
        return 1
    return 0


def parse(words: list[str]) -> argparse.Namespace:
    """Return the command and its options."""
    parser = argparse.ArgumentParser(prog="tuf_client.py")
    parser.add_argument("--metadata-dir", type=Path, required=True)
    parser.add_argument("--metadata-url")
    parser.add_argument("--target-name", action="append", default=[])
    parser.add_argument("--target-dir", type=Path)
    parser.add_argument("--target-base-url")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("init").add_argument("root", type=Path)
    commands.add_parser("refresh")
    commands.add_parser("download")
    args = parser.parse_args(words)
    if args.command != "init" and not args.metadata_url:
        parser.error(f"{args.command} needs --metadata-url")
    if args.command == "download" and not (args.target_name and args.target_dir and args.target_base_url):
        parser.error("download needs --target-name, --target-dir and --target-base-url")
    return args


def init(folder: Path, root: Path) -> None:
    """Trust this root to begin with."""
    content = root.read_bytes()
    trust_folder(folder).mkdir(parents=True, exist_ok=True)
    write_atomically(bootstrap_file(folder), content)
    write_atomically(folder / "root.json", content)


def update(args: argparse.Namespace) -> None:
    """Bring the metadata up to date, and fetch the targets that are named, if any."""
    folder = args.metadata_dir
    root = bootstrap_file(folder).read_bytes()
    try:
        with (
            closing(TwoStores(args.metadata_url, args.target_base_url)) as store,
            Trust(trust_folder(folder), store, root, Times(datetime.now(UTC))) as trust,
        ):
            trust.refresh()
            for name in args.target_name if args.command == "download" else ():
                download(trust, name, args.target_dir / quote(name, ""))
    finally:
        show(folder)


def download(trust: Trust, name: str, file: Path) -> None:
    """Fetch one target, unless it is here."""
    kept = b""
    with suppress(FileNotFoundError):
        kept = file.read_bytes()
    content = trust.target(name, MAX_TARGET_BYTES, kept)
    if content is None:
        raise NotFoundError(f"No role of the store signs {name}.")
    if content is not kept:
        write_atomically(file, content)


def show(folder: Path) -> None:
    """Copy what is trusted to where the suite looks."""
    for path in (trust_folder(folder) / "current").glob("*.json"):
        write_atomically(folder / path.name, path.read_bytes())


def trust_folder(folder: Path) -> Path:
    """Return the agent's trust folder."""
    return folder / ".trust"


def bootstrap_file(folder: Path) -> Path:
    """Return where `init` leaves the root, as the agent's `store.root`."""
    return folder / ".bootstrap-root"


if __name__ == "__main__":
    sys.exit(main())
