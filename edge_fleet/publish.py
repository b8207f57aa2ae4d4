"""Puts packaged versions into a store: blobs first, then the signed manifests."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from edge_agent import __version__
from edge_agent.documents.errors import ArtifactError, ModelError, RequestError
from edge_agent.documents.manifest import File, Manifest, blob_path
from edge_agent.documents.reading import read_document
from edge_agent.store import packing
from edge_fleet import artifacts
from edge_fleet.keys import KeyFolder, PrivateKey
from edge_fleet.patches import write_patches
from edge_fleet.repository import Edit, Repository
from edge_fleet.trust.signers import create_signers, signer_of


@dataclass(frozen=True, slots=True)
class Package:
    """A folder as `edge-convert` makes it: `manifest.json` and its blobs, all checked."""

    folder: Path
    content: bytes
    """The manifest's bytes, published as they are."""
    manifest: Manifest

    @property
    def files(self) -> dict[str, File]:
        """The blobs that the manifest names, by digest."""
        return {file.sha256: file for file in manifest_files(self.manifest)}

    def blob(self, sha256: str) -> Path:
        """Return where a blob lies in the package."""
        return self.folder / blob_path(sha256)


@dataclass(frozen=True, slots=True)
class Published:
    """What became of one package."""

    model: str
    version: str
    state: Literal["published", "unchanged"]
    """`unchanged`: this very version was in the store already."""
    variants: int
    size_bytes: int
    """All blobs of the version."""
    uploaded_bytes: int
    """Blobs that the store did not have."""
    patches: int = 0
    """Deployed files of which a device makes the new one with less than half the bytes."""


def manifest_files(manifest: Manifest) -> list[File]:
    """Return the files that a manifest names."""
    files = [variant.file for variant in manifest.variants]
    return files if manifest.golden is None else [*files, manifest.golden.file]


def model_role(model: str) -> str:
    """Return the TUF role that signs a model's manifests."""
    return f"m-{model}"


def read_package(folder: Path) -> Package:
    """Return a package whose blobs have the digests and lengths of its manifest.

    Raises RequestError if the folder is no package, DocumentError or ArtifactError if it is not consistent, or
    holds what would do harm on devices.
    """
    path = folder / "manifest.json"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RequestError(
            f"{folder} is not a package ({path.name}: {error.strerror}): name a folder that edge-convert build "
            "made."
        ) from error
    package = Package(folder, content, read_document(Manifest, content, str(path), __version__))
    for file in package.files.values():
        _check_blob(package.blob(file.sha256), file)
        artifacts.check_place(folder, package.blob(file.sha256))
    artifacts.check_contents(package.manifest, package.blob)
    return package


def publish(
    repository: Repository,
    packages: Sequence[Package],
    keys: KeyFolder,
    now: datetime,
    key: PrivateKey | None = None,
    on_bytes: Callable[[int], None] = lambda _: None,
) -> list[Published]:
    """Publish packages in one go: devices see all of them or none.

    A model's first version makes its key `m-<name>`, or takes `key`. `on_bytes` is told of each uploaded piece.
    Raises ModelError if a version is in the store with other content; then nothing is published.
    """
    with repository.editing(keys, now) as edit:
        for package in packages:
            _check_new(edit, package)
        return [_publish(repository, edit, package, keys, key, on_bytes) for package in packages]


def _check_new(edit: Edit, package: Package) -> None:
    manifest = package.manifest
    published = edit.contents.target(model_role(manifest.name), manifest.target_path)
    if published is not None and published != hashlib.sha256(package.content).hexdigest():
        raise ModelError(
            f"{manifest.name} {manifest.version} is published already, with other content: a published version "
            "never changes, give this one another version."
        )


def _publish(
    repository: Repository,
    edit: Edit,
    package: Package,
    keys: KeyFolder,
    key: PrivateKey | None,
    on_bytes: Callable[[int], None],
) -> Published:
    manifest, role = package.manifest, model_role(package.manifest.name)
    known = edit.contents.target(role, manifest.target_path) is not None
    patches = write_patches(repository.files, edit.contents, manifest, package.folder)
    uploaded_bytes = sum(_upload(repository, package, file, on_bytes) for file in package.files.values())
    if not known and (key is not None or role not in edit.delegations()):
        signers = (lambda: create_signers(keys, role)) if key is None else (lambda: [signer_of(key)])
        edit.delegate(role, f"models/{manifest.name}/*", signers)
    # Also when it is known: that repairs a store whose copy was lost or damaged.
    edit.put_target(role, manifest.target_path, package.content)
    return Published(
        model=manifest.name,
        version=manifest.version,
        state="unchanged" if known else "published",
        variants=len(manifest.variants),
        size_bytes=sum(file.size_bytes for file in package.files.values()),
        uploaded_bytes=uploaded_bytes,
        patches=patches,
    )


def _upload(repository: Repository, package: Package, file: File, on_bytes: Callable[[int], None]) -> int:
    """Copy a blob into the store unless a sound one is there; return how many bytes were copied."""
    name = blob_path(file.sha256)
    if repository.files.holds(name, file.sha256, file.size_bytes):
        return 0
    repository.files.upload(name, package.blob(file.sha256), on_bytes)
    return file.size_bytes


def _check_blob(path: Path, file: File) -> None:
    try:
        size_bytes = path.stat().st_size
    except OSError as error:
        raise ArtifactError(f"The package lacks {path}: build it again.") from error
    if size_bytes != file.size_bytes:
        raise ArtifactError(
            f"{path} has {size_bytes} bytes, its manifest says {file.size_bytes}: build the package again."
        )
    if _digest(path) != file.sha256:
        raise ArtifactError(f"{path} does not have the digest that is its name: build the package again.")
    if file.compression == "zstd":
        # Found here it is one person's mistake, found on the devices everybody's.
        packing.check_packed(path, file)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
