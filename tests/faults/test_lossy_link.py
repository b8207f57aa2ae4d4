"""A link that loses 5 % or 50 % of its packets: the download arrives, over several looks if need be."""

import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from edge_fleet.static_server import StaticServer
from support.agent import AgentProcess, wait_until
from support.fleet import Fleet
from support.host import lacking, need_program, need_root

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]

LIMIT_S = 300.0
HERE, THERE = "10.231.77.1", "10.231.77.2"


class Link:
    """A network namespace of a device, with a link to this one that loses packets; a context manager."""

    def __init__(self) -> None:
        need_root("a network namespace")
        self._ip = need_program("ip", "iproute2")
        self._nft = need_program("nft", "nftables")
        self._nsenter = need_program("nsenter", "util-linux")
        self.name = f"edge-{os.getpid()}"
        self._stack = ExitStack()

    @property
    def wrapper(self) -> tuple[str, ...]:
        """The command that runs another on the device's side."""
        # `ip netns exec` would mount a /sys of its own, which not every host allows.
        return (self._nsenter, f"--net=/run/netns/{self.name}", "--")

    def __enter__(self) -> "Link":
        ours, theirs = f"veth-{os.getpid() % 100_000}", "eth0"
        with ExitStack() as stack:
            self._run(self._ip, "netns", "add", self.name)
            stack.callback(self._run, self._ip, "netns", "del", self.name)
            self._run(self._ip, "link", "add", ours, "type", "veth", "peer", theirs, "netns", self.name)
            self._run(self._ip, "addr", "add", f"{HERE}/30", "dev", ours)
            self._run(self._ip, "link", "set", ours, "up")
            for command in (("addr", "add", f"{THERE}/30", "dev", theirs), ("link", "set", theirs, "up")):
                self._run(*self.wrapper, self._ip, *command)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def lose(self, percent: int) -> None:
        """Lose so many of the packets that come to the device, at random."""
        rules = (
            "add table inet loss; add chain inet loss in { type filter hook input priority 0 ; }; "
            f"add rule inet loss in iifname eth0 numgen random mod 100 < {percent} counter drop"
        )
        self._run(*self.wrapper, self._nft, rules)

    def _run(self, *command: str) -> None:
        done = subprocess.run(command, capture_output=True, check=False)
        if done.returncode:
            lacking(f"{' '.join(command)}: {done.stderr.decode().strip()}")


@pytest.fixture
def link() -> Iterator[Link]:
    with Link() as link:
        yield link


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path / "fleet")


@pytest.fixture
def requests() -> list[str]:
    """What the store was asked for, a log line each."""
    return []


@pytest.fixture
def url(link: Link, fleet: Fleet, requests: list[str]) -> Iterator[str]:
    server = StaticServer(fleet.store, HERE, 0, requests.append)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="static server", daemon=True)
    thread.start()
    yield server.url
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize(("percent", "size_bytes"), [(5, 4_000_000), (50, 100_000)])
def test_a_download_over_a_lossy_link_arrives(
    tmp_path: Path, link: Link, fleet: Fleet, url: str, requests: list[str], percent: int, size_bytes: int
) -> None:
    store = {"url": url, "root": str(fleet.root), "poll_interval_s": 1, "timeout_s": 15.0}
    agent = AgentProcess(tmp_path / "device", {"device": {"id": "device"}, "store": store})
    agent.wrapper = link.wrapper
    fleet.release("1", 2.0)
    with agent:
        wait_until(lambda: agent.reported().serial == 1, "the first version serves")
        link.lose(percent)
        fleet.release("2", 3.0, padding_bytes=size_bytes)
        began_s = time.monotonic()
        while agent.reported().serial != 2:
            assert agent.factor()[0] == (2.0 if agent.reported().serial == 1 else 3.0)
            assert time.monotonic() < began_s + LIMIT_S, agent.reported()
            time.sleep(0.2)
        took_s = time.monotonic() - began_s
        assert agent.factor() == (3.0, "2")
        kinds = [event.type for event in agent.events()]
        assert not {"quarantined", "refused", "state_damaged"} & set(kinds), kinds
    blobs = sum("/blobs/" in line for line in requests)
    failures = kinds.count("sync_failed")
    print(f"{percent} %: {size_bytes} bytes in {took_s:.1f} s, {failures} failures, {blobs} requests for files")
