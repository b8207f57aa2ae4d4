"""Which reports are worth telling: not every second of a trial."""

from dataclasses import replace

import pytest

from edge_agent.control.reporting import _settled
from edge_agent.documents.messages import BakeReport, BakingVersion, Reported, SyncReport, VersionReport

BAKE = BakeReport(3, 600.0, (BakingVersion("m", "2"),))
REPORT = Reported(
    "device",
    "0.1",
    "default",
    3,
    "plan",
    versions=(VersionReport("m", "2", "serving", "onnx", "fp32", "0" * 64),),
    sync=SyncReport("ok"),
    bake=BAKE,
)


def test_how_a_trial_goes_is_no_change() -> None:
    later = replace(BAKE, left_s=10.0, versions=(BakingVersion("m", "2", requests=100, error_rate=0.01),))
    assert _settled(replace(REPORT, bake=later)) == _settled(REPORT)


@pytest.mark.parametrize(
    "change",
    [
        {"bake": None},
        {"bake": replace(BAKE, serial=4)},
        {"held": "It was slow. Serial 2 is held."},
        {"serial": 4},
    ],
)
def test_its_beginning_and_end_are_one(change: dict[str, object]) -> None:
    assert _settled(replace(REPORT, **change)) != _settled(REPORT)  # type: ignore[arg-type]
