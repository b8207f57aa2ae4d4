"""With the device as the unit, a device fetches its own arm and no other."""

import hashlib
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from edge_agent.documents.deployment import Arm, Experiment, ModelDeployment
from edge_agent.documents.settings import DeviceSettings
from edge_fleet.deploy import Change, deploy
from support.tiny_fleet import Device, Fleet


def test_a_device_fetches_its_own_arm_alone(fleet: Fleet, device: Device, tmp_path: Path) -> None:
    for version in ("1", "2"):
        fleet.publish(version=version)
    deployed = ModelDeployment(
        arms=(Arm(version="1", name="old"), Arm(version="2", name="new")),
        unit="device",
        experiment=Experiment(name="trial", salt="s", epoch=1),
    )
    deploy(fleet.repository, fleet.keys, "default", Change(models={"digits": deployed}), datetime.now(UTC))

    seen = set()
    for number in range(6):
        paths = replace(device.settings.paths, state=str(tmp_path / f"state-{number}"))
        settings = replace(device.settings, device=DeviceSettings(id=f"device-{number}"), paths=paths)
        one = Device(settings)
        plan = one.sync().plan
        assert plan is not None
        (version,) = plan.versions
        assert (version.arm, len(plan.policy("digits").arms)) in (("old", 2), ("new", 2))
        wanted = {version.sha256}
        if version.golden_path is not None:
            wanted.add(hashlib.sha256(Path(version.golden_path).read_bytes()).hexdigest())
        assert {path.name for path in one.layout.blobs.rglob("*") if path.is_file()} == wanted
        seen.add(version.arm)
    assert seen == {"old", "new"}
