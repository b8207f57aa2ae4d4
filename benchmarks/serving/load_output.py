"""What wrk and h2load print, as numbers."""

import re
from dataclasses import dataclass

_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"([\d.]+)(us|ms|s|m|h)")


class LoadError(Exception):
    """A load generator said something else than figures."""


@dataclass(frozen=True)
class Load:
    """What a load generator found; latencies are empty where it does not tell them."""

    requests: int
    failures: int
    """Answers that are no success, and requests without one."""
    per_s: float
    latency_s: dict[int, float]
    """By percentile: 50, 75, 90, 99."""


def seconds(text: str) -> float:
    """Return a duration of wrk or h2load, such as 1.25ms, in seconds."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise LoadError(f"'{text}' is no duration.")
    return float(match[1]) * _SECONDS[match[2]]


def wrk(output: str) -> Load:
    """Read the output of `wrk --latency`; raises LoadError. Source: wrk 4.1.0, `src/wrk.c`."""
    failures = _number(r"Non-2xx or 3xx responses: (\d+)", output, 0)
    for kind in ("connect", "read", "write", "timeout"):
        failures += _number(rf"Socket errors:.*\b{kind} (\d+)", output, 0)
    return Load(
        requests=int(_number(r"^\s*(\d+) requests in ", output)),
        failures=int(failures),
        per_s=_number(r"^Requests/sec:\s+([\d.]+)", output),
        latency_s={
            int(share): seconds(time)
            for share, time in re.findall(r"^\s+(50|75|90|99)%\s+(\S+)$", output, re.M)
        },
    )


def h2load(output: str) -> Load:
    """Read the output of `h2load --h1`; raises LoadError. Source: nghttp2 1.52, `src/h2load.cc`."""
    succeeded = int(_number(r"^status codes: (\d+) 2xx", output))
    asked = int(_number(r"^requests: (\d+) total", output))
    done = int(_number(r"^requests: .* (\d+) done,", output))
    # A run for a time, not for a number of requests, cuts off what is under way at its end.
    unanswered = int(_number(r"^requests: .* (\d+) errored", output)) if done == asked else asked - done
    return Load(done, done - succeeded + unanswered, _number(r"^finished in .*, ([\d.]+) req/s", output), {})


def _number(pattern: str, output: str, default: float | None = None) -> float:
    match = re.search(pattern, output, re.M)
    if match is not None:
        return float(match[1])
    if default is None:
        raise LoadError(f"The load generator said nothing of the kind '{pattern}': {output.strip()[-300:]}")
    return default
