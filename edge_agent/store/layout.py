"""Where things lie in the state and the runtime folder."""

from dataclasses import dataclass
from pathlib import Path

from edge_agent.documents.errors import StorageError
from edge_agent.documents.settings import PathSettings


@dataclass(frozen=True, slots=True)
class StateLayout:
    """Names inside the state folder."""

    base: Path

    @property
    def lock(self) -> Path:
        """Held by the running agent; its content is the holder's process id."""
        return self.base / "lock"

    @property
    def state(self) -> Path:
        """The deployed state, with its predecessor in `state.json.prev`."""
        return self.base / "state.json"

    @property
    def events(self) -> Path:
        """The audit events; written by the supervisor alone."""
        return self.base / "events.db"

    @property
    def outcomes(self) -> Path:
        """Outcomes of predictions and their sums; written by serving alone."""
        return self.base / "outcomes.db"

    @property
    def secret(self) -> Path:
        """32 random bytes that authenticate this device's prediction ids."""
        return self.base / "secret"

    @property
    def trust(self) -> Path:
        """TUF metadata: numbered folders, the symlink `current`, the high-water mark."""
        return self.base / "trust"

    @property
    def usage(self) -> Path:
        """How much of the byte budget is used."""
        return self.base / "usage.json"

    @property
    def blobs(self) -> Path:
        """Verified files by content; `blobs/<aa>/<digest>`."""
        return self.base / "blobs"

    @property
    def staging(self) -> Path:
        """Downloads under way."""
        return self.base / "staging"

    def blob(self, sha256: str) -> Path:
        """Return where the verified file with this digest lies."""
        return self.blobs / sha256[:2] / sha256

    def create(self) -> None:
        """Make the folders; raises StorageError where that is not possible."""
        for folder in (self.base, self.trust, self.blobs, self.staging):
            try:
                folder.mkdir(mode=0o750, parents=True, exist_ok=True)
            except OSError as error:
                raise StorageError(
                    f"Cannot create the state folder {folder}: {error.strerror}; set paths.state to a folder "
                    "that the agent may write."
                ) from error


@dataclass(frozen=True, slots=True)
class RuntimeLayout:
    """Names inside the runtime folder."""

    base: Path

    @property
    def infer_socket(self) -> Path:
        """The Open Inference Protocol over HTTP."""
        return self.base / "infer.sock"

    @property
    def grpc_socket(self) -> Path:
        """The Open Inference Protocol over gRPC."""
        return self.base / "grpc.sock"

    @property
    def admin_socket(self) -> Path:
        """The operator's commands, JSON lines."""
        return self.base / "admin.sock"


def state_layout(paths: PathSettings) -> StateLayout:
    """Return the layout of the resolved state folder."""
    return StateLayout(Path(paths.state))


def runtime_layout(paths: PathSettings) -> RuntimeLayout:
    """Return the layout of the resolved runtime folder."""
    return RuntimeLayout(Path(paths.runtime))
