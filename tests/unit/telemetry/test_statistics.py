"""What Triton's statistics extension tells of a version."""

import time

from edge_agent.telemetry.statistics import BATCH_DURATIONS, DURATIONS, VersionStatistics


def test_nothing_was_done_at_first_and_every_duration_is_there() -> None:
    told = VersionStatistics().to_builtins("m", "1", 0)
    assert (told["name"], told["version"], told["last_inference"]) == ("m", "1", 0)
    assert told["inference_stats"] == {name: {"count": 0, "ns": 0} for name in DURATIONS}
    assert (told["inference_count"], told["execution_count"], told["batch_stats"]) == (0, 0, [])


def test_requests_and_runs_add_up_by_their_rows() -> None:
    statistics = VersionStatistics()
    for took_ns, is_success in ((5, True), (7, True), (11, False)):
        statistics.note_request(took_ns, time.perf_counter_ns(), is_success)
    statistics.note_executions(1, 8, 1, 2, 3)
    statistics.note_executions(1, 1, 10, 20, 30)
    statistics.note_executions(2, 8, 100, 200, 300)
    told = statistics.to_builtins("m", "1", 1234)
    assert told["inference_stats"]["success"] == {"count": 2, "ns": 12}
    assert told["inference_stats"]["fail"] == {"count": 1, "ns": 11}
    assert told["execution_count"] == 4
    assert abs(told["last_inference"] - time.time() * 1000) < 10_000
    assert [batch["batch_size"] for batch in told["batch_stats"]] == [1, 8]
    assert [told["batch_stats"][1][name]["ns"] for name in BATCH_DURATIONS] == [101, 202, 303]
    assert told["memory_usage"] == [{"type": "CPU", "id": 0, "byte_size": 1234}]
