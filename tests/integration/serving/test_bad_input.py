"""Bad input of every kind: the right status, one sentence, and a connection that works on or closes cleanly."""

import json
import re
import resource
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import h11
import pytest

from edge_agent.documents.settings import HttpSettings
from support.agent import wait_until
from support.serving import ServingProcess, identity_onnx, version_plan

SENTENCE = re.compile(r"[A-Z/'\d].*[.]", re.DOTALL)
GOOD = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServingProcess]:
    folder = tmp_path_factory.mktemp("bad")
    with ServingProcess(folder, HttpSettings(max_body_bytes=2**20)) as process:
        models = [
            version_plan(identity_onnx(folder / f"{datatype}.onnx", datatype), datatype.lower())
            for datatype in ("FP32", "INT8", "UINT64", "BOOL", "BYTES", "FP16")
        ]
        process.apply(*models)
        yield process


class Connection:
    """One connection; asks, and tells whether it may be used on."""

    def __init__(self, serving: ServingProcess) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(20)
        self.socket.connect(str(serving.path))
        self.parser = h11.Connection(h11.CLIENT)

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def post(
        self, body: bytes, model: str = "fp32", path: str | None = None, **headers: str
    ) -> tuple[int, bytes]:
        fields = [(name.replace("_", "-"), value) for name, value in headers.items()]
        target = path or f"/v2/models/{model}/infer"
        head = h11.Request(
            method="POST",
            target=target,
            headers=[("Host", "x"), ("Content-Length", str(len(body))), *fields],
        )
        content = b"".join(
            self.parser.send(event) or b"" for event in (head, h11.Data(body), h11.EndOfMessage())
        )
        self.socket.sendall(content)
        return self.answer()

    def answer(self) -> tuple[int, bytes]:
        """Return status and body of the next answer."""
        status, body = 0, b""
        while True:
            event = self.parser.next_event()
            if event is h11.NEED_DATA:
                self.parser.receive_data(self.socket.recv(65536))
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                if self.parser.our_state is h11.DONE and self.parser.their_state is h11.DONE:
                    self.parser.start_next_cycle()
                return status, body
            elif isinstance(event, h11.ConnectionClosed):
                raise ConnectionError("closed without an answer")


def told(answer: tuple[int, bytes]) -> tuple[int, str]:
    """Return status and message of an error, which is one sentence."""
    status, body = answer
    content = json.loads(body)
    assert list(content) == ["error"], content
    assert SENTENCE.fullmatch(content["error"]), content
    assert "Traceback" not in content["error"]
    assert len(content["error"]) < 600
    return status, content["error"]


def tensor(**changes: Any) -> bytes:
    """Return a request whose only input has these changes; None leaves a field out."""
    given = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2], **changes}
    return json.dumps(
        {"inputs": [{name: value for name, value in given.items() if value is not None}]}
    ).encode()


JSON: list[tuple[str, bytes, str]] = [
    ("nothing", b"", "not an inference request"),
    ("half an object", b'{"inputs": [', "not an inference request"),
    ("no object", b"[]", "not an inference request"),
    ("null", b"null", "not an inference request"),
    ("not UTF-8", b'{"inputs": "\xff"}', "not an inference request"),
    ("deep", b"[" * 200_000, "not an inference request"),
    ("deep data", b'{"inputs":[{"name":"x","datatype":"FP32","data":' + b"[" * 100_000, "inference request"),
    ("deep parameters", b'{"inputs":[],"parameters":' + b'{"a":' * 100_000, "not an inference request"),
    ("no inputs", b"{}", "inputs"),
    ("inputs of another kind", b'{"inputs": 1}', "not an inference request"),
    ("an input too few", b'{"inputs": []}', "input 'x' is missing"),
    ("an unknown input", tensor(name="w"), "no input 'w'; its inputs are 'x'"),
    ("an input twice", json.dumps({"inputs": GOOD["inputs"] * 2}).encode(), "given twice"),
    ("an unknown output", json.dumps({**GOOD, "outputs": [{"name": "w"}]}).encode(), "no output 'w'"),
    ("an output twice", json.dumps({**GOOD, "outputs": [{"name": "y"}] * 2}).encode(), "asked for twice"),
    ("an unknown datatype", tensor(datatype="FP8"), "must be FP32, not 'FP8'"),
    ("another datatype", tensor(datatype="INT32"), "must be FP32, not 'INT32'"),
    ("a negative dimension", tensor(shape=[-1, 2]), "must have shape"),
    ("an empty dimension", tensor(shape=[0, 2], data=[]), "must have shape"),
    ("a dimension of 2^63", tensor(shape=[2**63, 2]), "must have shape"),
    ("a dimension of 2^64", tensor(shape=[2**64, 2]), "must have shape"),
    ("an overflowing shape", tensor(shape=[2**31 - 1, 2]), "its shape is given as"),
    ("another rank", tensor(shape=[2]), "must have shape"),
    ("a shape of text", tensor(shape="12"), "not an inference request"),
    ("too few elements", tensor(data=[1]), "its shape is given as [1, 2]"),
    ("too many elements", tensor(data=[1, 2, 3]), "its shape is given as [1, 2]"),
    ("rows of different lengths", tensor(shape=[2, 2], data=[[1, 2], [3]]), "rows of different lengths"),
    ("nested too deep", tensor(data=[[[1, 2]]]), "flat list, or nested"),
    ("no data", tensor(data=None), "has no data"),
    ("text for numbers", tensor(data=["1", "2"]), "cannot be FP32"),
    ("NaN", tensor().replace(b"[1, 2]}", b"[NaN, 2]}"), "JSON has no NaN or infinity (byte 72), send binary"),
    ("Infinity", tensor().replace(b"[1, 2]}", b"[-Infinity, 2]}"), "JSON has no NaN or infinity (byte 7"),
    ("a number beyond FP32", tensor(data=[1e39, 2]), "too large for FP32"),
    ("a number beyond doubles", tensor().replace(b"[1, 2]}", b"[1e999, 2]}"), "FP32"),
    ("a parameter of another kind", json.dumps({**GOOD, "parameters": {"cache": 1}}).encode(), "true or false"),
    ("binary data not there", tensor(data=None, parameters={"binary_data_size": 8}), "0 bytes of data"),
    ("a negative size", tensor(data=None, parameters={"binary_data_size": -8}), "binary_data_size"),
    ("a huge size", tensor(data=None, parameters={"binary_data_size": 2**62}), "0 bytes of data"),
]  # fmt: skip


class TestRequests:
    @pytest.mark.parametrize(("body", "message"), [each[1:] for each in JSON], ids=[each[0] for each in JSON])
    def test_a_bad_body_is_told_and_the_next_request_works(
        self, serving: ServingProcess, body: bytes, message: str
    ) -> None:
        with Connection(serving) as connection:
            status, text = told(connection.post(body))
            assert status == 400
            assert message in text
            assert connection.post(json.dumps(GOOD).encode())[0] == 200

    @pytest.mark.parametrize(
        ("model", "datatype", "data", "message"),
        [
            ("int8", "INT8", [128, 0], "cannot be INT8"),
            ("int8", "INT8", [1.5, 0], "cannot be INT8"),
            ("int8", "INT8", [True, False], "cannot be INT8"),
            ("uint64", "UINT64", [-1, 0], "cannot be UINT64"),
            ("uint64", "UINT64", [2**64, 0], "cannot be UINT64"),
            ("bool", "BOOL", [1, 0], "cannot be BOOL"),
            ("bytes", "BYTES", [1, 0], "cannot be BYTES"),
            ("fp16", "FP16", [1, 0], "FP16, which JSON has no form for"),
        ],
    )
    def test_an_element_that_is_none_of_the_datatype(
        self, serving: ServingProcess, model: str, datatype: str, data: list[Any], message: str
    ) -> None:
        with Connection(serving) as connection:
            status, text = told(connection.post(tensor(datatype=datatype, data=data), model))
            assert status == 400
            assert message in text
            assert connection.post(json.dumps(GOOD).encode())[0] == 200

    @pytest.mark.parametrize(
        ("path", "message"),
        [
            ("/v2/models/none/infer", "no model 'none'"),
            ("/v2/models/fp32/versions/9/infer", "no version '9'"),
            ("/v2/models/fp32/versions//infer", "no version ''"),
            ("/v2/models//infer", "no model ''"),
            ("/v2/models/" + "x" * 5000 + "/infer", "no model 'xxx"),
            ("/v2/models/%00/infer", "no model"),
            ("/v2/models/fp32/../fp32/nothing", "nothing at"),
        ],
    )
    def test_what_is_not_there(self, serving: ServingProcess, path: str, message: str) -> None:
        with Connection(serving) as connection:
            status, body = connection.post(json.dumps(GOOD).encode(), path=path)
            assert status == 404
            assert message in json.loads(body)["error"]
            assert connection.post(json.dumps(GOOD).encode())[0] == 200

    @pytest.mark.parametrize(
        ("length", "binary"),
        [
            ("-1", b""),
            ("x", b""),
            ("9" * 30, b""),
            ("1e3", b""),
            ("100000", b""),
            ("+4", b""),
        ],
    )
    def test_a_header_length_that_is_none(self, serving: ServingProcess, length: str, binary: bytes) -> None:
        with Connection(serving) as connection:
            answer = connection.post(json.dumps(GOOD).encode() + binary, Inference_Header_Content_Length=length)
            assert told(answer)[0] == 400
            assert connection.post(json.dumps(GOOD).encode())[0] == 200

    @pytest.mark.parametrize(
        ("content", "size"),
        [
            (struct.pack("<I", 2**32 - 1) + b"ab", 6),
            (struct.pack("<I", 2) + b"ab", 6),
            (struct.pack("<I", 1) + b"a" + struct.pack("<I", 1) + b"bc", 11),
            (b"\0\0", 2),
        ],
    )
    def test_text_whose_lengths_lie(self, serving: ServingProcess, content: bytes, size: int) -> None:
        head = tensor(datatype="BYTES", data=None, parameters={"binary_data_size": size})
        with Connection(serving) as connection:
            answer = connection.post(head + content, "bytes", Inference_Header_Content_Length=str(len(head)))
            assert told(answer)[0] == 400
            assert connection.post(json.dumps(GOOD).encode())[0] == 200


class TestConnections:
    def test_a_body_that_is_claimed_to_be_huge_is_refused_before_it_is_sent(
        self, serving: ServingProcess
    ) -> None:
        for length in (2**31, 2**63, 10**30):
            with Connection(serving) as connection:
                head = f"POST /v2/models/fp32/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n"
                connection.socket.sendall(head.encode())
                connection.parser.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
                connection.parser.send(h11.EndOfMessage())
                assert told(connection.answer())[0] in (400, 413)
                assert connection.socket.recv(1) == b""

    def test_a_flood_of_headers_is_cut_off(self, serving: ServingProcess) -> None:
        with Connection(serving) as connection:
            connection.parser.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
            connection.parser.send(h11.EndOfMessage())
            with pytest.raises(ConnectionError):
                connection.socket.sendall(b"GET / HTTP/1.1\r\n" + b"X-Some: header\r\n" * 100_000)
                assert told(connection.answer())[0] == 431
                raise ConnectionError
        assert "Traceback" not in serving.log

    def test_a_truncated_body_and_a_half_open_client_cost_nothing(self, serving: ServingProcess) -> None:
        with ExitStack() as stack:
            for _ in range(50):
                connection = stack.enter_context(Connection(serving))
                connection.socket.sendall(
                    b"POST /v2/models/fp32/infer HTTP/1.1\r\nContent-Length: 100\r\n\r\n{"
                )
            with Connection(serving) as other:
                assert other.post(json.dumps(GOOD).encode())[0] == 200
        with Connection(serving) as other:
            assert other.post(json.dumps(GOOD).encode())[0] == 200

    def test_a_client_that_sends_byte_by_byte_runs_out_of_time(self, tmp_path: Path) -> None:
        with ServingProcess(tmp_path, HttpSettings(request_timeout_s=0.5)) as serving:
            serving.apply(version_plan(identity_onnx(tmp_path / "m.onnx")))
            with Connection(serving) as connection:
                connection.parser.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
                connection.parser.send(h11.EndOfMessage())
                connection.socket.settimeout(0.05)
                answer = None
                for byte in b"GET /" + b"x" * 10_000:
                    try:
                        connection.socket.sendall(bytes([byte]))
                        answer = connection.answer()
                        break
                    except TimeoutError:
                        continue
                assert answer is not None
                assert told(answer)[0] == 408

    def test_five_thousand_connections_at_a_time(self, serving: ServingProcess) -> None:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 6000), hard))
        try:
            with ExitStack() as stack:
                connections = [stack.enter_context(Connection(serving)) for _ in range(5000)]
                for connection in connections[::50]:
                    assert connection.post(json.dumps(GOOD).encode())[0] == 200
            with Connection(serving) as connection:
                assert connection.post(json.dumps(GOOD).encode())[0] == 200
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        pid = serving.process.pid
        wait_until(lambda: len(list(Path(f"/proc/{pid}/fd").iterdir())) < 200, "the connections to be closed")
