import pytest

from edge_agent.documents.messages import Reported, VersionReport
from edge_fleet import show_fleet  # noqa: F401 - registers how a status is shown
from edge_fleet.fleet_db import DeviceRow
from edge_fleet.show import show
from edge_fleet.status import Filter, SerialCount, fleet_status

VERSION = VersionReport("digits", "2", "serving", "onnx", "int8", "0" * 64)


def row(device: str, serial: int, online: bool | None = True, **fields: object) -> DeviceRow:
    reported = Reported(device, "0.1", "south", serial, "p", versions=(VERSION,), **fields)  # type: ignore[arg-type]
    return DeviceRow(device, online, 1.0, 1_795_000_000.0, reported, None, 0)


ROWS = [
    row("a", 3),
    row("b", 3, online=False, problems=("The disk is \x1b[2Jfull.",), target_serial=4),
    row("c", 2),
    DeviceRow("d", None, None, None, None, None, 2),
]


def test_counts_by_serial_and_filters() -> None:
    status = fleet_status(ROWS, Filter())
    assert [device.device for device in status.devices] == ["a", "b", "c", "d"]
    assert status.serials == (SerialCount("south", 3, 2, 1), SerialCount("south", 2, 1, 1))
    assert status.devices[3].problems == ("It sent 2 messages that the collector cannot read.",)
    for wanted, names in [
        (Filter(group="south"), "abc"),
        (Filter(online=False), "b"),
        (Filter(model="digits"), "abc"),
        (Filter(problems=True), "bd"),
        (Filter(group="north"), ""),
    ]:
        assert "".join(device.device for device in fleet_status(ROWS, wanted).devices) == names


def test_what_a_person_sees(capsys: pytest.CaptureFixture[str]) -> None:
    show(fleet_status(ROWS, Filter()))
    shown = " ".join(capsys.readouterr().out.split())
    assert "b offline south 3 (has 4) digits 2" in shown
    assert "The disk is \N{REPLACEMENT CHARACTER}[2Jfull." in shown
    assert "south 3 2 1 south 2 1 1" in shown
    show(fleet_status([], Filter()))
    assert "No device matches" in capsys.readouterr().out
