"""Requests as bytes, and the cheapest client there is: it sends them and takes answers of a known size."""

import json
import socket
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edge_agent.client.wire import Exchange

Address = Path | tuple[str, int]
TURN = 40
WARM_UP = 10

_DATATYPES = {"int32": "INT32", "float32": "FP32"}


def post(path: str, content: Any, headers: str = "") -> bytes:
    """Return a request with a JSON body, or with bytes as they are."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n{headers}\r\n"
    )
    return head.encode() + body


def tensors(arrays: Mapping[str, Any], **parameters: Any) -> dict[str, Any]:
    """Return an inference request of the Open Inference Protocol in JSON."""
    inputs = [
        {
            "name": name,
            "datatype": _DATATYPES[array.dtype.name],
            "shape": array.shape,
            "data": array.ravel().tolist(),
        }
        for name, array in arrays.items()
    ]
    return {"inputs": inputs, "parameters": parameters} if parameters else {"inputs": inputs}


def binary(path: str, arrays: Mapping[str, Any], **parameters: Any) -> bytes:
    """Return the same as a request with binary tensors, both ways."""
    inputs = [
        {
            "name": name,
            "datatype": _DATATYPES[array.dtype.name],
            "shape": array.shape,
            "parameters": {"binary_data_size": array.nbytes},
        }
        for name, array in arrays.items()
    ]
    head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True, **parameters}}).encode()
    body = head + b"".join(np.ascontiguousarray(array).tobytes() for array in arrays.values())
    return post(path, body, f"Inference-Header-Content-Length: {len(head)}\r\n")


def connect(address: Address) -> socket.socket:
    if isinstance(address, Path):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(address))
        return connection
    connection = socket.create_connection(address)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def answer(connection: socket.socket, request: bytes) -> tuple[int, bytes]:
    """Return how many bytes the answer to a request has, and its body; it must be a success."""
    connection.sendall(request)
    exchange, count, reply = Exchange(), 0, None
    while reply is None:
        data = connection.recv(2**20)
        count += len(data)
        reply = exchange.feed(data)
    assert reply.status == 200, reply.body[:300]
    return count, reply.body


def exchanging(address: Address, request: bytes) -> Callable[[], None]:
    """Return a call that asks once, on a connection that stays open, and reads an answer of the usual size."""
    connection = connect(address)
    for _ in range(3):
        size, _ = answer(connection, request)

    def exchange() -> None:
        connection.sendall(request)
        missing = size
        while missing:
            data = connection.recv(missing)
            if not data:
                raise ConnectionError("the server closed the connection")
            missing -= len(data)

    return exchange


def medians_us(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the median of each call in µs.

    The calls take turns of 50 in a row, of which the first ten do not count: all of them see the same machine,
    and each the processor's caches as its own calls leave them, as when a client asks one server in a loop.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(max(rounds // TURN, 3)):
        for name, call in calls.items():
            for number in range(TURN + WARM_UP):
                started_ns = time.perf_counter_ns()
                call()
                elapsed_us = (time.perf_counter_ns() - started_ns) / 1000
                if number >= WARM_UP:
                    times[name].append(elapsed_us)
    return {name: statistics.median(values) for name, values in times.items()}
