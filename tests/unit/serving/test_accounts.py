"""What counts as a fault of the version that was asked, for which a rollout would take it back."""

from types import SimpleNamespace
from typing import Any

import pytest

from edge_agent.documents.errors import (
    DeadlineExceededError,
    EdgeAgentError,
    EngineSetupError,
    ModelLoadError,
    PayloadTooLargeError,
    RequestError,
    UnavailableError,
)
from edge_agent.documents.plan import ModelPlan
from edge_agent.serving.accounts import Accounts
from edge_agent.serving.router import Choice
from edge_agent.telemetry.counters import Counters
from edge_agent.telemetry.health_page import HealthPage


@pytest.mark.parametrize(
    ("error", "faults", "kind"),
    [
        (ModelLoadError("no"), 1, "engine"),
        (EngineSetupError("no"), 1, "engine"),
        (EdgeAgentError("no"), 1, "engine"),
        (UnavailableError("full"), 0, "unavailable"),
        (DeadlineExceededError("late"), 0, "deadline"),
        (RequestError("wrong"), 0, "request"),
        (PayloadTooLargeError("large"), 0, "request"),
    ],
)
def test_what_the_version_cannot_help_is_no_fault_of_it(error: EdgeAgentError, faults: int, kind: str) -> None:
    page, counters = HealthPage.create(), Counters()
    loaded: Any = SimpleNamespace(plan=SimpleNamespace(model="m", version="1"), slot=3)
    choice, accounts = Choice(loaded, ModelPlan("m"), "1", 0, True), Accounts(page, counters)
    accounts.note_answer(choice, accounts.of(choice), error, 0)
    counted = page.snapshot().slots[3]
    assert (counted.requests, counted.errors) == (1, faults)
    assert counters.of("m", "1").errors == {kind: 1}
