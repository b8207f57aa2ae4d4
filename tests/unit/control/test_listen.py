import os
import socket
import stat
from pathlib import Path

import pytest

from edge_agent.control.listen import listening_sockets, unix_socket
from edge_agent.control.systemd import Notifier, inherited_sockets
from edge_agent.documents.errors import OperatorError
from edge_agent.documents.settings import HttpSettings


def test_the_socket_has_its_mode_from_the_start(tmp_path: Path) -> None:
    path = tmp_path / "infer.sock"
    with unix_socket(path, 0o620, None):
        assert stat.S_IMODE(path.stat().st_mode) == 0o620


def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "infer.sock"
    unix_socket(path, 0o660, None).close()
    assert path.exists()
    with unix_socket(path, 0o660, None) as again:
        again.listen()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))


def test_a_socket_in_use_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "infer.sock"
    with unix_socket(path, 0o660, None) as first:
        first.listen()
        with pytest.raises(OperatorError, match="Another process listens on"):
            unix_socket(path, 0o660, None)
        assert path.exists()


def test_a_missing_folder_and_an_unknown_group_are_named(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match=r"paths\.runtime"):
        unix_socket(tmp_path / "gone" / "infer.sock", 0o660, None)
    with pytest.raises(OperatorError, match="'no-such-group', which does not exist"):
        unix_socket(tmp_path / "infer.sock", 0o660, "no-such-group")


def test_ports_are_bound_where_they_are_set(tmp_path: Path) -> None:
    settings = HttpSettings(tcp_port=0, metrics_port=0)
    sockets = listening_sockets(settings, tmp_path / "infer.sock", {})
    try:
        assert sorted(sockets) == ["http", "infer", "metrics"]
        assert sockets["http"].getsockname()[0] == "127.0.0.1"
        taken = HttpSettings(tcp_port=sockets["http"].getsockname()[1])
        with pytest.raises(OperatorError, match=r"it is taken; set http\.tcp_port"):
            listening_sockets(taken, tmp_path / "other.sock", {})
    finally:
        for sock in sockets.values():
            sock.close()


def test_a_host_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match=r"http\.tcp_host"):
        listening_sockets(HttpSettings(tcp_host="no.such.host.invalid", tcp_port=0), tmp_path / "i.sock", {})


def test_sockets_from_systemd_are_taken_by_name() -> None:
    ours = socket.socket(socket.AF_UNIX)
    kept = os.dup(3) if _is_open(3) else None
    os.dup2(ours.fileno(), 3)
    try:
        environment = {"LISTEN_PID": "77", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "infer"}
        assert inherited_sockets(environment, pid=78) == {}
        found = inherited_sockets(environment, pid=77)
        assert list(found) == ["infer"]
        assert not found["infer"].get_inheritable()
        found["infer"].close()
    finally:
        if kept is not None:
            os.dup2(kept, 3)
            os.close(kept)
        ours.close()


def test_sockets_without_distinct_names_are_refused() -> None:
    environment = {"LISTEN_PID": "77", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "unknown:unknown"}
    with pytest.raises(OperatorError, match="FileDescriptorName="):
        inherited_sockets(environment, pid=77)


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_hears_of_readiness_and_life(tmp_path: Path, abstract: bool) -> None:
    address = f"\0edge-agent-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(address)
        environment = {"NOTIFY_SOCKET": address.replace("\0", "@"), "WATCHDOG_USEC": "30000000"}
        notifier = Notifier.from_environment(environment, pid=77)
        assert notifier.watchdog_s == 30.0
        for tell in (notifier.ready, notifier.alive, notifier.stopping):
            tell()
        notifier.status("fine")
        heard = [listener.recv(100) for _ in range(4)]
        assert heard == [b"READY=1", b"WATCHDOG=1", b"STOPPING=1", b"STATUS=fine"]


def test_without_systemd_nothing_is_said_and_nothing_fails() -> None:
    notifier = Notifier.from_environment({}, pid=77)
    notifier.ready()
    assert notifier.watchdog_s is None
    assert Notifier.from_environment({"WATCHDOG_USEC": "1", "WATCHDOG_PID": "78"}, pid=77).watchdog_s is None


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True
