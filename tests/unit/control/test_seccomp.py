"""The numbers of the filter against those of the kernel's headers; that it holds is tried in `test_prober`."""

import re
import struct
from pathlib import Path

import pytest

from edge_agent.control import seccomp

SOCKETS = ["socket", "bind", "listen", "connect", "accept", "accept4", "sendto", "sendmsg", "sendmmsg"]
OTHERS = ["ptrace", "process_vm_readv", "process_vm_writev", "kill", "tkill", "rt_sigqueueinfo"]
ANYWHERE = ["io_uring_setup", "io_uring_enter", "io_uring_register", "pidfd_send_signal"]
HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}


@pytest.mark.parametrize("machine", HEADERS)
def test_the_numbers_are_the_kernels(machine: str) -> None:
    path = HEADERS[machine]
    if not path.exists():
        pytest.skip(f"{path} is not installed (linux-libc-dev)")
    numbers = dict(re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", path.read_text()))
    calls = seccomp._TABLE[machine]
    assert calls.sockets == tuple(int(numbers[name]) for name in SOCKETS)
    assert calls.others == tuple(int(numbers[name]) for name in OTHERS)
    assert calls.tgkill == int(numbers["tgkill"])
    assert tuple(int(numbers[name]) for name in ANYWHERE) == seccomp._ANYWHERE


@pytest.mark.parametrize("machine", seccomp._TABLE)
def test_what_the_program_decides(machine: str) -> None:
    calls = seccomp._TABLE[machine]
    program = seccomp.program(calls, pid=77)
    for number in (*calls.sockets, *calls.others, *seccomp._ANYWHERE):
        assert not _allows(program, calls.architecture, number)
    assert _allows(program, calls.architecture, calls.tgkill, 77)
    assert not _allows(program, calls.architecture, calls.tgkill, 78)
    assert _allows(program, calls.architecture, 0)
    assert not _allows(program, calls.architecture ^ 1, 0)
    assert _allows(program, calls.architecture, 0x40000000) == (machine != "x86_64")


def _allows(program: bytes, architecture: int, number: int, argument: int = 0) -> bool:
    """Run the program as the kernel does."""
    data = {0: number, 4: architecture, 16: argument}
    code = list(struct.iter_unpack("=HBBI", program))
    at = value = 0
    while True:
        what, if_true, if_false, constant = code[at]
        at += 1
        match what:
            case 0x20:
                value = data[constant]
            case 0x15:
                at += if_true if value == constant else if_false
            case 0x35:
                at += if_true if value >= constant else if_false
            case 0x06:
                return bool(constant == 0x7FFF0000)
