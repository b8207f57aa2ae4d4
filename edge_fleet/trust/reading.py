"""Reads what a store holds as devices do: what is not as it was signed is refused, so nobody signs it again."""

from tuf.api.metadata import Root

from edge_agent.documents.errors import OperatorError, StorageError
from edge_fleet.stores.base import StoreFiles
from edge_fleet.trust.contents import TIMESTAMP_FILE, Contents, metadata_name, parse
from edge_fleet.trust.pinning import Pin
from edge_fleet.trust.verify import MetadataCheck


def read_contents(files: StoreFiles, pin: Pin | None = None, mending: bool = False) -> Contents:
    """Return what a store holds; expired metadata counts, as it is about to be renewed.

    The store must be or follow what is pinned. While `mending`, roles may lag behind a root whose publishing
    was cut off. Raises StorageError for metadata that is missing, damaged, not what was signed, or set back.
    """
    check = MetadataCheck(files)
    check.run(None if pin is None else pin.root)
    findings = list(check.findings)
    newest = check.roles.get("root")
    if not mending or (pin and newest and pin.root.version == newest.signed.version):
        # A root is trusted by its keys' folder only once all of its roles were published.
        findings += check.lagging.values()
    if findings:
        raise StorageError(_refusal(files, findings))
    lagging = frozenset(check.lagging)
    contents = Contents(files, check.roles, check.root_bytes, check.timestamp_bytes, lagging)
    if pin is not None:
        pin.check_newer(contents)
    return contents


def check_unfinished(files: StoreFiles, root: Root) -> None:
    """Raise OperatorError if a place has more than what the cut-off making of a store with this root leaves."""
    left = [file.name for file in files.list("metadata/")]
    name = metadata_name("root", 1)
    of_another = name in left and parse(files.read(name), name).signed.roles != root.roles
    if of_another or not all(name.startswith("metadata/1.") for name in left):
        raise OperatorError(
            f"{files} is a store that lacks {TIMESTAMP_FILE}: restore that from a backup, or choose "
            "another folder."
        )


def _refusal(files: StoreFiles, findings: list[str]) -> str:
    first = findings[0]
    if "backup" in first or "edge-fleet" in first:  # It says itself what to do.
        return first
    return (
        f"{files} is not as it was signed ({first.rstrip('.')}): restore it from a backup; edge-fleet verify "
        "tells all that is wrong."
    )
