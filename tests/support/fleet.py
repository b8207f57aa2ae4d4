"""A store in a folder, signed by the fleet tools, with models that multiply."""

import shutil
from datetime import UTC, datetime
from pathlib import Path

from edge_agent.documents.deployment import Arm, Deployment, ModelDeployment
from edge_agent.documents.manifest import Manifest, blob_path
from edge_fleet.deploy import Change, deploy
from edge_fleet.keys import KeyFolder
from edge_fleet.publish import publish, read_package
from edge_fleet.repository import Repository
from support.models import affine_onnx, package


class Fleet:
    """Publishes versions of models and deploys them to the default group."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = folder / "store"
        self.keys = KeyFolder(folder / "keys", None)
        self.repository = Repository(self.store)
        self.repository.create(self.keys, datetime.now(UTC))
        self.root = folder / "root.json"
        """The root that devices trust; a copy, since theirs does not lie in the store either."""
        shutil.copy(self.store / "root.json", self.root)

    @property
    def url(self) -> str:
        """The store as a file URL: devices reach it without a server."""
        return self.store.as_uri()

    def publish(self, version: str, factor: float, *, name: str = "m", padding_bytes: int = 0) -> None:
        """Publish a version of a model that computes `factor * x`."""
        model = affine_onnx(self.folder / f"{name}-{version}.onnx", factor, padding_bytes)
        folder = self.folder / "packages" / name / version
        self.publish_package(package(folder, model, name=name, version=version, factor=factor))

    def publish_faulty(
        self, version: str, behaviour: str, *, name: str = "m", run_limit_s: float = 30.0
    ) -> None:
        """Publish a version that runs on the engine of `support.plugin`: `3.0 fails=0.2`, for example."""
        model = self.folder / f"{name}-{version}-faulty"
        model.write_text(behaviour)
        self.publish_package(
            package(
                self.folder / "packages" / name / version,
                model,
                name=name,
                version=version,
                factor=float(behaviour.split()[0]),
                engine="crashing",
                run_limit_s=run_limit_s,
            )
        )

    def publish_package(self, folder: Path) -> None:
        """Publish a packaged version."""
        publish(self.repository, [read_package(folder)], self.keys, datetime.now(UTC))

    def deploy(self, *, bake_s: float | None = None, **models: str) -> Deployment:
        """Deploy one version of each named model, beside what is deployed already."""
        wanted = {name: ModelDeployment(arms=(Arm(version=version),)) for name, version in models.items()}
        change = Change(models=wanted, bake_s=bake_s)
        return deploy(self.repository, self.keys, "default", change, datetime.now(UTC)).after

    def release(
        self,
        version: str,
        factor: float,
        *,
        name: str = "m",
        padding_bytes: int = 0,
        bake_s: float | None = None,
    ) -> Deployment:
        """Publish a version and deploy it."""
        self.publish(version, factor, name=name, padding_bytes=padding_bytes)
        return self.deploy(bake_s=bake_s, **{name: version})

    def blob(self, name: str, version: str) -> Path:
        """Return where the model file of a version lies in the store."""
        manifest = Manifest.model_validate_json(
            (self.folder / "packages" / name / version / "manifest.json").read_bytes()
        )
        return self.store / blob_path(manifest.variants[0].file.sha256)
