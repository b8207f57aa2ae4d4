import re

from edge_agent.telemetry.counters import BUCKETS_S, Counters, ServingInfo, resident_bytes

LINE = re.compile(r'([a-z_]+)(?:\{((?:[a-z_]+="(?:[^"\\\n]|\\.)*",?)*)\})? (-?[0-9.e+-]+|\+Inf)')


def info(**changes):
    values = {"agent_version": "1.0", "plan_id": "abc", "start_time_s": 1000.5, "loaded": ()}
    return ServingInfo(**{**values, **changes})


def samples(text):
    """Parse the exposition format strictly; return values by name and labels."""
    assert text.endswith("\n")
    declared = set()
    found = {}
    for line in text.splitlines():
        if line.startswith("# "):
            _, word, name, rest = line.split(" ", 3)
            assert word in ("HELP", "TYPE")
            assert rest
            if word == "TYPE":
                assert name not in declared
                declared.add(name)
            continue
        match = LINE.fullmatch(line)
        assert match, line
        name, labels, value = match.groups()
        assert any(
            name == known or name.removeprefix(known) in ("_bucket", "_sum", "_count") for known in declared
        )
        assert (name, labels) not in found
        found[name, labels] = float(value)
    return found


def test_a_new_process_shows_its_own_figures():
    found = samples(Counters().render(info()).decode())
    assert found["edge_agent_serving_start_time_seconds", None] == 1000.5
    assert found["edge_agent_build_info", 'agent_version="1.0",plan="abc"'] == 1
    assert 10**6 < found["edge_agent_serving_resident_memory_bytes", None] < 10**10
    assert resident_bytes() > 10**6


def test_counts_add_up():
    counters = Counters()
    version = counters.of("m", "1")
    assert counters.of("m", "1") is version
    for duration_s in (0.0, 0.0001, 0.00011, 0.02, 99.0):
        version.observe(duration_s)
    version.fail("request")
    version.fail("request")
    version.fail("engine")
    version.in_flight = 3
    found = samples(counters.render(info(loaded=(("m", "1", "onnx", "int8"),))).decode())
    labels = 'model="m",version="1"'
    assert found["edge_agent_requests_total", labels] == 5
    assert found["edge_agent_request_errors_total", f'{labels},kind="request"'] == 2
    assert found["edge_agent_request_errors_total", f'{labels},kind="engine"'] == 1
    assert found["edge_agent_requests_in_flight", labels] == 3
    assert found["edge_agent_model_info", f'{labels},engine="onnx",precision="int8"'] == 1
    name = "edge_agent_request_duration_seconds"
    buckets = [found[f"{name}_bucket", f'{labels},le="{bound}"'] for bound in (*BUCKETS_S, "+Inf")]
    assert buckets[:3] == [2, 3, 3]
    assert buckets == sorted(buckets)
    assert buckets[-2:] == [4, 5]
    assert found[f"{name}_count", labels] == 5
    assert abs(found[f"{name}_sum", labels] - 99.02021) < 1e-9


def test_labels_are_escaped():
    counters = Counters()
    counters.of('a"\\\nb', "1").observe(1)
    text = counters.render(info()).decode()
    assert 'model="a\\"\\\\\\nb"' in text
    assert samples(text)
