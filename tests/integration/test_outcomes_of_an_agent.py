"""A prediction's outcome, with the whole agent: it joins its arm by the id alone, restarts later."""

from pathlib import Path

import numpy as np
import pytest

from edge_agent.documents.errors import DuplicateError
from edge_agent.store.outcomes_db import read_sums
from support.agent import AgentProcess, wait_until
from support.fleet import Fleet


def test_an_outcome_joins_its_prediction_after_the_agent_was_killed_and_updated(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path / "fleet")
    fleet.release("1", 2.0)
    store = {"url": fleet.url, "root": str(fleet.root), "poll_interval_s": 3600}
    settings = {"store": store, "device": {"id": "device"}, "outcomes": {"commit_interval_s": 0.02}}
    with AgentProcess(tmp_path / "device", settings) as agent:
        wait_until(lambda: agent.reported().serial == 1, "the version serves")
        with agent.client() as client:
            results = [client.infer("m", {"x": np.full((1, 3), n, np.float32)}) for n in range(3)]
            assert {result.arm for result in results} == {"1"}
            assert len({result.prediction_id for result in results}) == 3
            client.outcome("m", results[0].prediction_id, correct=1)
        agent.kill()
        agent.start()
        fleet.release("2", 3.0)
        agent.sync()
        assert agent.factor() == (3.0, "2")
        with agent.client() as client:
            client.outcome("m", results[1].prediction_id, correct=0, revenue=2.5)
            with pytest.raises(DuplicateError):
                client.outcome("m", results[0].prediction_id, correct=1)
        (epoch,) = read_sums(agent.state / "outcomes.db").epochs
        assert (epoch.model, epoch.experiment, epoch.epoch) == ("m", "m", 0)
        totals: dict[tuple[str, str], list[float]] = {}
        for sums in epoch.sums:
            total = totals.setdefault((sums.arm, sums.metric), [0, 0.0])
            total[0] += sums.n
            total[1] += sums.sum
        assert totals == {("1", "correct"): [2, 1.0], ("1", "revenue"): [1, 2.5]}
