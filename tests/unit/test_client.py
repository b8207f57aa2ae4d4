"""The clients against servers that are missing, wrong, slow or gone; the rest is in the integration tests."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from edge_agent.client import AsyncClient, Client
from edge_agent.client.memory import SMALLEST_BYTES, Memory, Region
from edge_agent.client.wire import find_address
from edge_agent.documents.errors import (
    DeadlineExceededError,
    NotFoundError,
    RequestError,
    SettingsError,
    UnavailableError,
)
from support.serving import ServingProcess, identity_onnx, version_plan

X = np.array([[1, 2]], np.float32)
EMPTY = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]"


@contextlib.contextmanager
def server(path, *handlers: Callable[[socket.socket], None]) -> Iterator[threading.Semaphore]:
    """Let each connection, in turn, be handled by the next handler; the semaphore counts those closed again."""
    closed = threading.Semaphore(0)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve():
            for handler in handlers:
                connection, _ = listener.accept()
                with connection:
                    handler(connection)
                closed.release()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield closed
        thread.join(10)
        assert not thread.is_alive()


def answering(*answers: bytes):
    def handle(connection):
        for answer in answers:
            assert connection.recv(65536)
            connection.sendall(answer)

    return handle


def silent(connection):
    assert connection.recv(65536)
    connection.recv(65536)  # until the client gives up


def gone(connection):
    assert connection.recv(65536)


def test_addresses_are_paths_or_urls(tmp_path, monkeypatch):
    assert str(find_address("/run/x.sock")) == "/run/x.sock"
    assert find_address("http://127.0.0.1:8000").port == 8000
    assert find_address("http://localhost").port == 80
    for wrong in ("https://localhost:1", "http://", "http://a:b", "http://a:99999999"):
        with pytest.raises(SettingsError, match="is no address of an agent"):
            find_address(wrong)


def test_without_an_agent_it_says_how_to_start_one(tmp_path):
    with pytest.raises(UnavailableError, match=r"No agent answers at .*/nope .*'edge-agent serve MODEL'"):
        Client(tmp_path / "nope").models()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(UnavailableError, match=f"No agent answers at http://127.0.0.1:{port}"):
        Client(f"http://127.0.0.1:{port}").ready()

    async def run():
        async with AsyncClient(tmp_path / "nope") as client:
            await client.ready()

    with pytest.raises(UnavailableError, match="No agent answers"):
        asyncio.run(run())


def test_what_is_no_agent_is_told(tmp_path):
    with (
        server(tmp_path / "s", answering(b"SSH-2.0-OpenSSH\r\n"), answering(EMPTY.replace(b"[]", b"<>"))),
        Client(tmp_path / "s") as client,
    ):
        for _ in range(2):
            with pytest.raises(UnavailableError, match="no agent"):
                client.models()


@pytest.mark.parametrize(
    ("status", "headers", "kind"),
    [
        ("404 Not Found", "", NotFoundError),
        ("400 Bad Request", "", RequestError),
        ("503 Service Unavailable", "Retry-After: 7\r\n", UnavailableError),
        ("504 Gateway Timeout", "", DeadlineExceededError),
    ],
)
def test_statuses_become_errors(tmp_path, status, headers, kind):
    body = b'{"error":"So it is."}'
    answer = f"HTTP/1.1 {status}\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body
    with server(tmp_path / "s", answering(answer)), Client(tmp_path / "s") as client:
        with pytest.raises(kind, match=r"^So it is\.$") as caught:
            client.metadata("m")
        if headers:
            assert caught.value.retry_after_s == 7


def test_silence_ends_at_the_deadline(tmp_path):
    with server(tmp_path / "s", silent, silent), Client(tmp_path / "s", timeout_s=0.05) as client:
        with pytest.raises(DeadlineExceededError, match=r"No answer came within 0.05 s"):
            client.models()

        async def run():
            async with AsyncClient(tmp_path / "s", timeout_s=0.05) as asynchronous:
                await asynchronous.models()

        with pytest.raises(DeadlineExceededError, match=r"No answer came within 0.05 s"):
            asyncio.run(run())


def test_a_connection_that_was_closed_while_idle_is_replaced(tmp_path):
    with (
        server(tmp_path / "s", answering(EMPTY), answering(EMPTY)) as closed,
        Client(tmp_path / "s") as client,
    ):
        assert client.models() == ()
        assert closed.acquire(timeout=10)
        assert client.models() == ()


def test_a_request_that_was_taken_is_not_sent_again(tmp_path):
    def take_two(connection):
        answering(EMPTY)(connection)
        gone(connection)

    with server(tmp_path / "s", take_two), Client(tmp_path / "s") as client:
        assert client.models() == ()
        with pytest.raises(UnavailableError, match="closed the connection before it answered"):
            client.models()


def test_an_answer_ahead_of_the_whole_request_is_read(tmp_path):
    answer = b'HTTP/1.1 413 X\r\nContent-Length: 21\r\nConnection: close\r\n\r\n{"error":"Too large."}'
    answer = answer.replace(b"21", str(len(b'{"error":"Too large."}')).encode())

    def refuse(connection):
        connection.recv(10)
        connection.sendall(answer)

    large = np.full((40, 1), b"x" * 100_000, np.object_)
    with (
        server(tmp_path / "s", refuse),
        Client(tmp_path / "s") as client,
        pytest.raises(RequestError, match="Too large"),
    ):
        client.infer("m", {"x": large})


@pytest.fixture(scope="module")
def serving(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serving")
    with ServingProcess(folder) as process:
        process.apply(version_plan(identity_onnx(folder / "m.onnx"), "m", "7"))
        yield process


def test_both_clients_do_the_same(serving):
    async def run():
        async with AsyncClient(serving.path) as client:
            results = await asyncio.gather(*(client.infer("m", X * number) for number in range(20)))
            return (
                [result.outputs["y"].tolist() for result in results],
                await client.metadata("m", "7"),
                await client.ready("m"),
                await client.ready("none"),
                await client.models(),
            )

    with Client(f"http://{serving.tcp[0]}:{serving.tcp[1]}") as client:
        assert asyncio.run(run()) == (
            [client.infer("m", X * number).outputs["y"].tolist() for number in range(20)],
            client.metadata("m", "7"),
            client.ready("m"),
            client.ready("none"),
            client.models(),
        )
    assert client.metadata("m").inputs[0].name == "x"
    client.close()


def test_one_client_serves_many_threads(serving):
    right: list[bool] = []
    with Client(serving.path) as client:

        def work(number):
            right.extend((client.infer("m", X * number).outputs["y"] == X * number).all() for _ in range(50))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert right == [True] * 300


@pytest.mark.parametrize(
    "array", [X.astype(">f4"), np.asfortranarray(np.arange(4, dtype=np.float32).reshape(2, 2)), X[:, ::-1]]
)
def test_any_layout_of_an_array_arrives(serving, array):
    with Client(serving.path) as client:
        np.testing.assert_array_equal(client.infer("m", array).outputs["y"], array)


def test_an_array_without_a_datatype_is_refused(serving):
    with (
        Client(serving.path) as client,
        pytest.raises(RequestError, match="complex64, which the protocol has no"),
    ):
        client.infer("m", {"x": np.zeros((1, 2), np.complex64)})


class Watched(Region):
    """Has another thread lend a region in the midst of being looked at, if it can."""

    def watch(self, memory: Memory) -> None:
        other = threading.Thread(target=lambda: memory.lend({"x": np.zeros(SMALLEST_BYTES, np.uint8)}))
        self.ask = lambda: (other.start(), other.join(0.2))

    def __getattribute__(self, name: str) -> object:
        if name == "size_bytes":
            self.__dict__.pop("ask", lambda: None)()
        return super().__getattribute__(name)


def test_a_region_has_room_whatever_other_threads_lend():
    memory = Memory(is_local=True)
    watched = Watched(2 * SMALLEST_BYTES)
    regions = [Region(SMALLEST_BYTES), watched, Region(SMALLEST_BYTES)]
    try:
        for region in regions:
            memory.give_back(region)
        watched.watch(memory)
        assert memory.lend({"x": np.zeros(2 * SMALLEST_BYTES, np.uint8)}) is watched
    finally:
        for region in regions:
            region.close()
