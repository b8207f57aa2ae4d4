import http.client
import json
import random
import socket
import time
from contextlib import ExitStack

import h11
import pytest

from edge_agent.serving.http_messages import Limits
from edge_agent.serving.http_reader import HEAD_LIMIT_BYTES


def wait_until(condition, limit_s=10.0):
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


class Answers:
    """Reads answers off a connection with another HTTP library than the server's."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=2**26)

    def next(self, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body of the next answer; the request to it was sent by other means."""
        if self.parser.our_state is not h11.IDLE:
            self.parser.start_next_cycle()
        self.parser.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
        self.parser.send(h11.EndOfMessage())
        body = b""
        status, headers = 0, {}
        while True:
            event = self.parser.next_event()
            if event is h11.NEED_DATA:
                self.parser.receive_data(self.connection.recv(65536))
            elif isinstance(event, h11.Response):
                status = event.status_code
                headers = {name.decode(): value.decode() for name, value in event.headers}
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                return status, headers, body
            elif not isinstance(event, h11.InformationalResponse):
                raise AssertionError(event)


def ask(connection, content, method="GET"):
    connection.sendall(content)
    return Answers(connection).next(method)


def told(answer):
    status, _, body = answer
    assert status == 200, body
    return json.loads(body)


def is_closed(connection):
    """Say whether the peer has closed, with nothing more to read."""
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


def refusal(answer):
    status, headers, body = answer
    assert headers["connection"] == "close"
    content = json.loads(body)
    assert list(content) == ["error"]
    assert content["error"].endswith(".")
    return status


@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_requests_follow_each_other_on_one_connection(server, kind):
    with server.connect(kind) as connection:
        answers = Answers(connection)
        for path in ("/a", "/b?query=1", "/c%20d"):
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nX-One: 1\r\n\r\n".encode())
            status, headers, body = answers.next()
            assert status == 200
            assert "connection" not in headers
            assert json.loads(body)["path"] == path.split("?")[0]
            assert json.loads(body)["headers"] == {"host": "x", "x-one": "1"}
        assert len(server.connections) == 1
    wait_until(lambda: not server.connections)


def test_a_request_may_come_byte_by_byte(server):
    with server.connect() as connection:
        for byte in b"POST /slow HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc":
            connection.sendall(bytes([byte]))
        answer = told(Answers(connection).next())
    assert (answer["path"], answer["body"]) == ("/slow", "abc")


def test_a_body_may_come_in_chunks_with_a_trailer(server):
    content = (
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nSum: 5\r\n\r\n"
    )
    with server.connect() as connection:
        answer = told(ask(connection, content))
    assert answer["body"] == "abcde"
    assert "sum" not in answer["headers"]


def test_pipelined_requests_are_answered_in_order(server):
    with server.connect() as connection:
        connection.sendall(b"".join(b"GET /%d HTTP/1.1\r\n\r\n" % number for number in range(200)))
        answers = Answers(connection)
        assert [told(answers.next())["path"] for _ in range(200)] == [f"/{number}" for number in range(200)]


def test_the_same_head_again_is_answered_the_same(server):
    head = b"POST /same HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n"
    others = [
        b"POST /same HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\nsixsix",
        b"GET /same HTTP/1.1\r\n\r\n",
        b"POST /othr HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nother",
        head + b"\r\n\r\n\r",
    ]
    with server.connect() as connection:
        answers = Answers(connection)

        def tell(content):
            connection.sendall(content)
            return told(answers.next("POST"))

        first = tell(head + b"abcde")
        assert first["body"] == "abcde"
        for other in others:
            for body in (b"abcde", b"GET /", b"\r\n\r\n1"):
                assert tell(head + body) == first | {"body": body.decode()}
            tell(other)
        for split in range(1, len(head) + 5, 7):  # in two pieces, whatever they are
            whole = head + b"vwxyz"
            connection.sendall(whole[:split])
            assert tell(whole[split:]) == first | {"body": "vwxyz"}
        connection.sendall((head + b"12345") * 3)
        assert [told(answers.next("POST"))["body"] for _ in range(3)] == ["12345"] * 3
        connection.sendall(head + b"12345")
        connection.shutdown(socket.SHUT_WR)
        assert told(answers.next("POST"))["body"] == "12345"
        assert is_closed(connection)


@pytest.mark.parametrize("extra", [b"\r\n", b"\r\n\r\n"])
def test_empty_lines_between_requests_are_no_part_of_a_head(server, extra):
    head = b"POST /same HTTP/1.1\r\nContent-Length: 2\r\n\r\n"
    with server.connect() as connection:
        answers = Answers(connection)
        for body in (b"\r\n", b"ab", b"\r\n", b"cd"):
            connection.sendall(head + body + extra)
            assert told(answers.next("POST"))["body"] == body.decode()


def test_a_later_answer_holds_back_the_next(server):
    with server.connect() as connection:
        connection.sendall(b"GET /later HTTP/1.1\r\n\r\nGET /next HTTP/1.1\r\n\r\n")
        wait_until(lambda: server.held)
        assert server.asked == ["/later"]
        server.release()
        answers = Answers(connection)
        assert [told(answers.next())["path"] for _ in range(2)] == ["/later", "/next"]


def test_head_has_the_headers_alone(server):
    with server.connect() as connection:
        status, headers, body = ask(connection, b"HEAD /x HTTP/1.1\r\n\r\n", "HEAD")
        assert (status, body) == (200, b"")
        assert int(headers["content-length"]) > 50
        assert told(ask(connection, b"GET /y HTTP/1.1\r\n\r\n"))["path"] == "/y"


def test_an_old_client_is_closed_unless_it_asks_to_be_kept(server):
    with server.connect() as connection:
        status, headers, _ = ask(connection, b"GET / HTTP/1.0\r\n\r\n")
        assert (status, headers["connection"]) == (200, "close")
        assert is_closed(connection)
    with server.connect() as connection:
        for _ in range(2):
            _, headers, _ = ask(connection, b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            assert headers["connection"] == "keep-alive"


def test_a_client_that_asks_to_close_is_closed(server):
    with server.connect() as connection:
        _, headers, _ = ask(connection, b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
        assert headers["connection"] == "close"
        assert is_closed(connection)
    wait_until(lambda: not server.connections)


def test_a_client_that_has_no_more_to_send_gets_its_answers(server):
    with server.connect() as connection:
        connection.sendall(b"GET /later HTTP/1.1\r\n\r\nGET /last HTTP/1.1\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        wait_until(lambda: server.held)
        server.release()
        answers = Answers(connection)
        assert [told(answers.next())["path"] for _ in range(2)] == ["/later", "/last"]
        assert is_closed(connection)


def test_an_expected_continue_is_sent_before_the_body(server):
    with server.connect() as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert told(ask(connection, b"abc"))["body"] == "abc"


def test_a_body_that_will_be_too_large_is_refused_before_it_is_sent(server):
    with server.connect() as connection:
        head = b"POST / HTTP/1.1\r\nContent-Length: 100001\r\nExpect: 100-continue\r\n\r\n"
        assert refusal(ask(connection, head)) == 413
        assert is_closed(connection)
    assert server.asked == []


def test_a_client_that_sends_a_large_body_all_the_same_reads_the_refusal(server):
    with server.connect() as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nContent-Length: 5000000\r\n\r\n")
        connection.sendall(b"x" * 5_000_000)
        assert refusal(Answers(connection).next()) == 413


def test_a_chunked_body_is_limited_too(server):
    with server.connect() as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
        connection.sendall(b"2710\r\n" + b"x" * 10_000 + b"\r\n")
        for _ in range(10):
            connection.sendall(b"2710\r\n" + b"x" * 10_000 + b"\r\n")
        assert refusal(Answers(connection).next()) == 413
    assert server.asked == []


def test_a_body_of_the_largest_size_is_taken(server):
    with server.connect() as connection:
        content = b"POST / HTTP/1.1\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000
        assert told(ask(connection, content))["size"] == 100_000


@pytest.mark.parametrize(
    "content",
    [
        b"GET / HTTP/1.1\r\nX: " + b"x" * (HEAD_LIMIT_BYTES + 1) + b"\r\n\r\n",
        b"GET /" + b"x" * (HEAD_LIMIT_BYTES + 1) + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: xxxx\r\n" * (HEAD_LIMIT_BYTES // 5) + b"\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"x" * 600_000,
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: " + b"x" * 600_000,
    ],
    ids=["header", "target", "headers", "endless header", "endless trailer"],
)
def test_a_head_is_limited(server, content):
    with server.connect() as connection:
        assert refusal(ask(connection, content)) == 431
    assert server.asked == []


def test_tiny_chunks_are_no_attack(server):
    chunks = b"".join(b"1\r\nx\r\n" for _ in range(50_000))
    with server.connect() as connection:
        head = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
        assert told(ask(connection, head + chunks + b"0\r\n\r\n"))["size"] == 50_000


@pytest.mark.parametrize(
    "content",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/2.0\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1\r\nBad Header: 1\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: a\x00b\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"POST / HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
        b"GET / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)  # fmt: skip
def test_a_malformed_request_is_refused_and_the_connection_closed(server, content):
    with server.connect() as connection:
        assert refusal(ask(connection, content)) == 400
        assert is_closed(connection)
    assert server.asked == []


@pytest.mark.parametrize(
    "lines", [b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked"]
)
def test_a_body_in_a_coding_that_is_not_known_is_refused(server, lines):
    with server.connect() as connection:
        content = b"POST / HTTP/1.1\r\n" + lines + b"\r\n\r\n1\r\na\r\n0\r\n\r\n"
        assert refusal(ask(connection, content)) == 501
        assert is_closed(connection)


def test_spaces_around_a_value_are_no_part_of_it(server):
    content = b"POST / HTTP/1.1\r\nX:  a b\t \r\nTransfer-Encoding: chunked \r\n\r\n1\r\na\r\n0\r\n\r\n"
    with server.connect() as connection:
        assert told(ask(connection, content))["headers"] == {"x": "a b", "transfer-encoding": "chunked"}


def test_who_has_no_more_to_send_reads_the_refusal_too(server):
    for _ in range(20):
        with server.connect() as connection:
            connection.sendall(b"GET /a HTTP/1.1\r\n\r\nNONSENSE /b HTTP/1.1\r\n\r\n")
            connection.shutdown(socket.SHUT_WR)
            answers = Answers(connection)
            assert told(answers.next())["path"] == "/a"
            assert refusal(answers.next()) == 400


def test_what_came_before_a_malformed_request_is_answered(server):
    with server.connect() as connection:
        connection.sendall(b"GET /a HTTP/1.1\r\n\r\nGET /later HTTP/1.1\r\n\r\nnonsense\r\n\r\n")
        answers = Answers(connection)
        assert told(answers.next())["path"] == "/a"
        wait_until(lambda: server.held)
        server.release()
        assert told(answers.next())["path"] == "/later"
        assert refusal(answers.next()) == 400


def test_browsers_are_refused_on_tcp_alone(server):
    content = b"GET /x HTTP/1.1\r\nHost: x\r\nOrigin: https://example.org\r\n\r\n"
    with server.connect("tcp") as connection:
        assert refusal(ask(connection, content)) == 403
    with server.connect("unix") as connection:
        assert told(ask(connection, content))["path"] == "/x"


def test_a_slow_reader_gets_everything_and_holds_nothing_else(server):
    with server.connect() as slow, server.connect() as other:
        slow.sendall(b"GET /big HTTP/1.1\r\n\r\n" * 3)
        answers = Answers(slow)
        wait_until(lambda: server.asked == ["/big"])
        assert told(ask(other, b"GET /quick HTTP/1.1\r\n\r\n"))["path"] == "/quick"
        assert server.asked == ["/big", "/quick"]  # the second waits for its reader
        assert [len(answers.next()[2]) for _ in range(3)] == [2**22] * 3


def test_a_large_last_answer_is_read_to_its_end_and_the_connection_closed(server):
    with server.connect() as connection:
        connection.sendall(b"GET /big HTTP/1.1\r\nConnection: close\r\n\r\n")
        wait_until(lambda: any(not peer._can_write for peer in server.connections))
        status, headers, body = Answers(connection).next()
        assert (status, headers["connection"], len(body)) == (200, "close", 2**22)
    wait_until(lambda: not server.connections)


def test_a_client_that_goes_abandons_its_request(server):
    with server.connect() as connection:
        connection.sendall(b"GET /later HTTP/1.1\r\n\r\n")
        wait_until(lambda: server.held)
    wait_until(lambda: not server.connections)
    assert server.held[0][0].is_abandoned
    server.release()


def test_bodies_of_all_clients_together_are_limited(server):
    """What waits for an answer counts until it has one; then there is room again."""
    content = b"POST /later HTTP/1.1\r\nContent-Length: 90000\r\n\r\n" + b"x" * 90_000
    with ExitStack() as stack:
        waiting = [stack.enter_context(server.connect()) for _ in range(3)]
        for connection in waiting:
            connection.sendall(content)
        wait_until(lambda: len(server.held) == 3)
        with server.connect() as late:
            status, headers, body = ask(late, content)
            assert (status, headers["retry-after"], headers["connection"]) == (503, "1", "close")
            assert b"together are too large" in body
        server.release()
        for connection in waiting:
            assert told(Answers(connection).next())["size"] == 90_000
        with server.connect() as again:
            for _ in range(10):
                again.sendall(content.replace(b"/later", b"/now12"))
                assert told(Answers(again).next())["size"] == 90_000
    wait_until(lambda: not server.connections)
    assert server.intake.bytes == 0


def test_who_goes_in_the_middle_of_a_body_leaves_nothing_behind(server):
    with server.connect() as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nContent-Length: 90000\r\n\r\n" + b"x" * 50_000)
        wait_until(lambda: server.intake.bytes == 50_000)
    wait_until(lambda: server.intake.bytes == 0)


def test_one_connection_too_many_is_told_so_and_closed(server):
    with ExitStack() as stack:
        for _ in range(100):
            connection = stack.enter_context(server.connect())
            told(ask(connection, b"GET /x HTTP/1.1\r\n\r\n"))
        late = stack.enter_context(server.connect())
        status, headers, body = Answers(late).next()
        assert (status, headers["retry-after"], headers["connection"]) == (503, "1", "close")
        assert b"too many connections" in body
        assert is_closed(late)
        told(ask(connection, b"GET /x HTTP/1.1\r\n\r\n"))
    wait_until(lambda: not server.connections)
    with server.connect() as connection:
        told(ask(connection, b"GET /x HTTP/1.1\r\n\r\n"))


class TestDeadlines:
    @pytest.fixture
    def limits(self) -> Limits:
        return Limits(
            max_connections=100,
            max_body_bytes=1000,
            idle_timeout_s=10,
            request_timeout_s=5,
            refuse_origins=False,
        )

    def sweep(self, server, after_s):
        def check():
            for connection in tuple(server.connections):
                connection.check_deadline(server.loop.time() + after_s)

        server.call(check)

    def test_an_idle_connection_is_closed(self, server):
        with server.connect() as connection:
            told(ask(connection, b"GET /x HTTP/1.1\r\n\r\n"))
            self.sweep(server, 9)
            assert server.connections
            self.sweep(server, 11)
            assert is_closed(connection)

    def test_half_a_request_is_told_before_it_is_closed(self, server):
        with server.connect() as connection:
            connection.sendall(b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\na")
            wait_until(lambda: any(peer._reader._body_bytes for peer in server.connections))
            self.sweep(server, 4)
            self.sweep(server, 6)
            assert refusal(Answers(connection).next()) == 408
            assert is_closed(connection)

    def test_a_request_that_runs_has_no_deadline(self, server):
        with server.connect() as connection:
            connection.sendall(b"GET /later HTTP/1.1\r\n\r\n")
            wait_until(lambda: server.held)
            self.sweep(server, 1000)
            server.release()
            assert told(Answers(connection).next())["path"] == "/later"

    def test_who_never_reads_is_closed(self, server):
        with server.connect() as connection:
            connection.sendall(b"GET /big HTTP/1.1\r\n\r\n")
            wait_until(lambda: any(not peer._can_write for peer in server.connections))
            self.sweep(server, 11)
            wait_until(lambda: not server.connections)


class TestDrain:
    def drain(self, server):
        server.call(lambda: [connection.drain() for connection in server.connections])

    def close_idle(self, server):
        server.call(lambda: [connection.close_if_idle() for connection in tuple(server.connections)])

    def test_the_answer_that_is_due_says_close(self, server):
        with server.connect() as connection:
            connection.sendall(b"GET /later HTTP/1.1\r\n\r\n")
            wait_until(lambda: server.held)
            self.drain(server)
            self.close_idle(server)
            server.release()
            status, headers, _ = Answers(connection).next()
            assert (status, headers["connection"]) == (200, "close")
            assert is_closed(connection)

    def test_an_idle_connection_has_one_more_request(self, server):
        with server.connect() as connection:
            told(ask(connection, b"GET /a HTTP/1.1\r\n\r\n"))
            self.drain(server)
            status, headers, _ = ask(connection, b"GET /b HTTP/1.1\r\n\r\n")
            assert (status, headers["connection"]) == (200, "close")

    def test_a_client_learns_for_sure_that_nobody_read_its_request(self, server):
        with server.connect() as connection:
            told(ask(connection, b"GET /a HTTP/1.1\r\n\r\n"))
            self.drain(server)
            self.close_idle(server)
            with pytest.raises(BrokenPipeError):
                connection.sendall(b"GET /b HTTP/1.1\r\n\r\n")

    def test_what_was_sent_before_the_close_is_answered(self, server):
        with server.connect() as connection:
            told(ask(connection, b"GET /a HTTP/1.1\r\n\r\n"))
            self.drain(server)

            def send_and_close():
                connection.sendall(b"GET /b HTTP/1.1\r\n\r\n")
                for peer in tuple(server.connections):
                    peer.close_if_idle()

            server.call(send_and_close)
            assert told(Answers(connection).next())["path"] == "/b"
            assert is_closed(connection)


SEEDS = (
    b"POST /v2/models/m/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello",
    b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n1\r\na\r\n0\r\nA: b\r\n\r\n",
    b"GET /x?y#z HTTP/1.1\r\nConnection: keep-alive, upgrade\r\nUpgrade: h2c\r\n\r\n",
    b"HEAD http://h/p HTTP/1.0\r\nOrigin: null\r\n\r\n",
)
TOKENS = (
    b"\r\n",
    b"\n",
    b"\x00",
    b" ",
    b":",
    b"chunked",
    b"Content-Length: 7\r\n",
    b"\xff",
    b"0\r\n\r\n",
    b"99999999",
)


def mutate(draw: random.Random) -> bytes:
    content = bytearray(b"".join(draw.choice(SEEDS) for _ in range(draw.randint(1, 3))))
    for _ in range(draw.randint(0, 6)):
        position = draw.randrange(len(content))
        match draw.randrange(4):
            case 0:
                content[position] = draw.randrange(256)
            case 1:
                del content[position : position + draw.randint(1, 8)]
            case 2:
                content[position:position] = draw.choice(TOKENS)
            case _:
                end = position + draw.randint(1, 30)
                content[end:end] = content[position:end]
        content = content or bytearray(b"x")
    return bytes(content)


@pytest.mark.parametrize("seed", range(4))
def test_mutated_requests_never_hang_or_break_the_server(server, seed):
    draw = random.Random(seed)
    for _ in range(150):
        with server.connect(draw.choice(["unix", "tcp"])) as connection:
            content = mutate(draw)
            try:
                split = draw.randrange(len(content) + 1)
                connection.sendall(content[:split])
                connection.sendall(content[split:])
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):  # ends, since the server closes what has no more to come
                    pass
            except ConnectionError:
                pass
    with server.connect() as connection:
        assert told(ask(connection, b"GET /alive HTTP/1.1\r\n\r\n"))["path"] == "/alive"
    wait_until(lambda: not server.connections)


def test_the_standard_library_understands_it(server):
    connection = http.client.HTTPConnection(*server.tcp, timeout=10)
    for _ in range(2):
        connection.request("POST", "/std", b"abc", {"X": "y"})
        assert json.loads(connection.getresponse().read())["path"] == "/std"
    connection.close()
