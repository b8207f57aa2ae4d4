"""What is served of what is deployed, and why not all of it."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.control.durable_state import DurableState
from edge_agent.control.journal import Journal
from edge_agent.control.selection import Selection
from edge_agent.documents.errors import UnavailableError
from edge_agent.documents.plan import LeftOut, Plan, VersionPlan, with_id
from edge_agent.store.events_db import EventsDb
from edge_agent.store.state import DeployedState


def version(model: str) -> VersionPlan:
    return VersionPlan(model, "1", "onnx", "fp32", model * 64, f"/{model}", 1, (), ())


BOTH = with_id(Plan(versions=(version("a"), version("b"))))


@pytest.fixture
def selection(tmp_path: Path) -> Iterator[Selection]:
    journal = Journal(lambda: EventsDb.open(tmp_path / "events.db", keep_unsent=False))
    yield Selection(DurableState(tmp_path / "state.json", DeployedState(current=BOTH)), journal)
    journal.close()


def test_everything_is_served_at_first(selection: Selection) -> None:
    assert selection.wanted == selection.deployed == BOTH
    assert (selection.problems, selection.missing(BOTH, BOTH)) == ([], ())


def test_what_does_not_load_is_left_out_until_it_is_tried_again(selection: Selection) -> None:
    selection.leave_out("a" * 64, "It is broken.")
    assert selection.wanted.models == selection.deployed.models == ("b",)
    assert selection.problems == ["a 1 is left out: It is broken."]
    assert selection.missing(BOTH, selection.wanted) == (LeftOut("a", "1", "It is broken."),)
    selection.try_again()
    assert selection.wanted == BOTH


def test_to_load_a_model_tries_it_again_and_says_why_it_cannot_be_served(selection: Selection) -> None:
    async def scenario() -> None:
        selection.leave_out("a" * 64, "It is broken.")
        loading = asyncio.create_task(selection.change("a", True, "uid:0", lambda: None))
        await asyncio.sleep(0)
        assert selection.wanted == BOTH
        selection.leave_out("a" * 64, "It is still broken.")
        selection.settle()
        with pytest.raises(UnavailableError, match="Model 'a' cannot be served: It is still broken"):
            await loading

    asyncio.run(scenario())


def test_a_model_may_be_gone_before_it_is_loaded(tmp_path: Path) -> None:
    async def scenario() -> None:
        state = DurableState(tmp_path / "state.json", DeployedState(current=BOTH))
        selection = Selection(state, Journal(lambda: EventsDb.open(tmp_path / "events.db", keep_unsent=False)))
        loading = asyncio.create_task(selection.change("a", True, "uid:0", lambda: None))
        await asyncio.sleep(0)
        state.change(current=with_id(Plan(versions=(version("b"),))))
        selection.settle()
        with pytest.raises(UnavailableError, match="not deployed any more"):
            await loading

    asyncio.run(scenario())


def test_what_is_unloaded_stays_deployed(selection: Selection) -> None:
    async def scenario() -> None:
        unloading = asyncio.create_task(selection.change("a", False, "uid:0", selection.settle))
        await unloading
        assert selection.deployed == BOTH
        assert (selection.wanted.models, selection.withheld) == (("b",), {"a"})
        (problem,) = selection.problems
        assert problem.startswith("a is not served: It was unloaded on request")
        assert selection.missing(BOTH, selection.wanted)[0].reason.startswith("It was unloaded on request")
        await selection.change("a", True, "uid:0", selection.settle)
        assert selection.wanted == BOTH

    asyncio.run(scenario())
