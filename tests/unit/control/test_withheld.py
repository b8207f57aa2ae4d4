"""Models that are not served for now, and those who wait for a change of that."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.control.journal import Journal
from edge_agent.control.withheld import Withheld
from edge_agent.documents.errors import NotFoundError, UnavailableError
from edge_agent.documents.plan import ModelPlan, Plan, VersionPlan, with_id
from edge_agent.store.events_db import EventsDb


def version(model: str) -> VersionPlan:
    return VersionPlan(model, "1", "onnx", "fp32", model * 64, f"/{model}", 1, (), ())


BOTH = with_id(Plan(versions=(version("a"), version("b")), policies=(ModelPlan("a"), ModelPlan("b"))))


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(lambda: EventsDb.open(tmp_path / "events.db", keep_unsent=False))
    yield journal
    journal.close()


def test_a_plan_without_a_model_has_nothing_of_it_and_an_id_of_its_own(journal: Journal) -> None:
    async def scenario() -> None:
        withheld = Withheld(journal)
        assert withheld.without(BOTH) is BOTH
        change = asyncio.create_task(withheld.change(BOTH, "a", False, "uid:0", lambda: None))
        await asyncio.sleep(0)
        left = withheld.without(BOTH)
        assert (left.models, [policy.model for policy in left.policies]) == (("b",), ["b"])
        assert left.id != BOTH.id
        assert not change.done()
        withheld.settle(left, lambda _: "")
        await change
        assert [(event.type, event.model, event.actor) for event in journal.newest(9)] == [
            ("unloaded", "a", "uid:0")
        ]

    asyncio.run(scenario())


def test_a_model_that_is_not_deployed_is_unknown(journal: Journal) -> None:
    with pytest.raises(NotFoundError, match="No model 'c' is deployed to this device; the models are: a, b"):
        asyncio.run(Withheld(journal).change(BOTH, "c", True, "", lambda: None))


def test_who_waits_is_told_when_it_comes_to_nothing(journal: Journal) -> None:
    async def scenario() -> None:
        withheld = Withheld(journal)
        changes = [
            asyncio.create_task(withheld.change(BOTH, model, load, "", lambda: None))
            for model, load in (("a", False), ("a", True), ("b", True))
        ]
        await asyncio.sleep(0)
        withheld.settle(withheld.without(Plan(versions=(version("a"),))), lambda model: f"{model} is broken.")
        unloaded, loaded, broken = await asyncio.gather(*changes, return_exceptions=True)
        assert loaded is None
        assert isinstance(unloaded, UnavailableError)
        assert "loaded again meanwhile" in str(unloaded)
        assert str(broken) == "Model 'b' cannot be served: b is broken."

    asyncio.run(scenario())
