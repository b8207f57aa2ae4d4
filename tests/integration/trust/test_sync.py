"""The way of a version from a package to a device, over a real web server."""

import hashlib
from pathlib import Path

from support.tiny_fleet import Device, Fleet


def test_a_published_and_deployed_version_arrives(fleet: Fleet, device: Device) -> None:
    published = fleet.publish(version="1")
    fleet.deploy("digits=1")

    result = device.sync_child()

    assert (result.status, result.message, result.warnings) == ("plan", "", ())
    assert result.plan is not None
    (version,) = result.plan.versions
    assert (version.model, version.version, version.engine) == ("digits", "1", "onnx")
    assert (result.plan.group, result.plan.serial, result.plan.origin) == ("default", 1, "stable")
    assert hashlib.sha256(Path(version.path).read_bytes()).hexdigest() == version.sha256
    assert version.golden_path is not None
    assert Path(version.golden_path).is_file()
    assert result.downloaded_bytes == published.size_bytes
