"""Models of a whole agent are unloaded and loaded by Triton's own client, over TCP with the token."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from edge_agent.documents.errors import RequestError
from support.agent import AgentProcess
from support.fleet import Fleet

BEARER = {"Authorization": "Bearer secret"}


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path / "fleet")


@pytest.fixture
def agent(tmp_path: Path, fleet: Fleet) -> Iterator[AgentProcess]:
    token = tmp_path / "token"
    token.write_text("secret\n")
    sections: dict[str, dict[str, Any]] = {
        "device": {"id": "device"},
        "store": {"url": fleet.url, "root": str(fleet.root), "poll_interval_s": 3600},
        "http": {"tcp_port": 0, "tcp_admin": True, "admin_token_file": str(token)},
    }
    with AgentProcess(tmp_path / "device", sections) as agent:
        yield agent


@pytest.fixture
def client(agent: AgentProcess) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(agent.ask("status")["sockets"]["http"], network_timeout=30) as client:
        yield client


def ask(client: triton.InferenceServerClient) -> tuple[float, str]:
    tensor = triton.InferInput("x", [1, 3], "FP32")
    tensor.set_data_from_numpy(np.ones((1, 3), np.float32))
    result = client.infer("m", [tensor])
    return float(result.as_numpy("y")[0, 0]), result.get_response()["model_version"]


def refused(call: Any, *arguments: Any, **more: Any) -> tuple[str, str]:
    with pytest.raises(InferenceServerException) as caught:
        call(*arguments, **more)
    assert caught.value.message().endswith(".")
    return caught.value.status(), caught.value.message()


def states(client: triton.InferenceServerClient) -> dict[tuple[str, str], tuple[str, str]]:
    index = client.get_model_repository_index()
    return {(entry["name"], entry["version"]): (entry["state"], entry["reason"]) for entry in index}


def test_a_model_is_left_out_over_updates_until_it_is_loaded(
    client: triton.InferenceServerClient, agent: AgentProcess, fleet: Fleet
) -> None:
    fleet.release("1", 2.0)
    agent.sync()
    assert refused(client.unload_model, "m")[0] == "403"
    assert refused(client.unload_model, "none", headers=BEARER)[0] == "404"
    assert refused(client.load_model, "m", headers=BEARER, config="{}")[0] == "400"
    assert ask(client) == (2.0, "1")

    client.unload_model("m", headers=BEARER)
    assert not client.is_model_ready("m")
    state, reason = states(client)["m", "1"]
    assert (state, "unloaded on request" in reason) == ("UNAVAILABLE", True)
    status, message = refused(ask, client)
    assert (status, "unloaded on request" in message) == ("404", True)
    assert refused(client.get_inference_statistics, "m")[0] == "404"
    client.unload_model("m", headers=BEARER)

    fleet.release("2", 3.0)
    assert agent.sync()["status"] == "activated"
    assert list(states(client)) == [("m", "2")]
    reported = agent.reported()
    assert [(found.version, found.state) for found in reported.versions] == [("2", "left_out")]
    assert any("unloaded on request" in problem for problem in reported.problems)

    client.load_model("m", headers=BEARER)
    assert ask(client) == (3.0, "2")
    assert states(client)["m", "2"] == ("READY", "")
    client.load_model("m", headers=BEARER)
    assert agent.reported().problems == ()
    agent.ask("rollback")
    assert ask(client) == (2.0, "1")
    told = [(event.type, event.model, event.actor) for event in agent.events() if "loaded" in event.type]
    assert told == [("unloaded", "m", "tcp"), ("loaded", "m", "tcp")]


def test_what_is_unloaded_is_served_again_by_the_next_agent(
    client: triton.InferenceServerClient, agent: AgentProcess, fleet: Fleet
) -> None:
    fleet.release("1", 2.0)
    agent.sync()
    client.unload_model("m", headers=BEARER)
    agent.stop()
    agent.start()
    assert agent.factor() == (2.0, "1")


def test_a_previous_plan_leaves_out_what_is_unloaded_too(agent: AgentProcess, fleet: Fleet) -> None:
    for version, factor in (("1", 2.0), ("2", 3.0)):
        fleet.release(version, factor)
        agent.sync()
    agent.ask("unload", model="m")
    agent.ask("rollback")
    with pytest.raises(RequestError, match="unloaded on request"):
        agent.factor()
    agent.ask("load", model="m")
    assert agent.factor() == (2.0, "1")
