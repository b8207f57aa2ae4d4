"""No network for this process any more: a seccomp filter, which every later thread and child has, too.

A classic BPF program over the number of the system call, handed over by prctl, which takes no library and no
privilege. Refused calls fail with EPERM, so that whoever makes one can say what it wanted. A library would be
libseccomp, which has no wheels and is on few devices.

Source: https://docs.kernel.org/userspace-api/seccomp_filter.html; numbers from the kernel's syscall tables.
"""

import ctypes
import errno
import os
import platform
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_SET_SECCOMP: Final = 22
_SECCOMP_MODE_FILTER: Final = 2
_ALLOW: Final = 0x7FFF0000
_REFUSE: Final = 0x00050000 | errno.EPERM

_LOAD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_IF_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_IF_AT_LEAST: Final = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_RETURN: Final = 0x06  # BPF_RET | BPF_K
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
"""Where `struct seccomp_data` has them, the argument's lower half on a little-endian machine."""
_X32: Final = 0x40000000
"""Numbers from here on are the x32 calls of x86-64, another way to all of them."""


@dataclass(frozen=True, slots=True)
class _Calls:
    """The audit number of an architecture, and its numbers of what is refused."""

    architecture: int
    sockets: tuple[int, ...]
    """socket, bind, listen, connect, accept, accept4, sendto, sendmsg, sendmmsg."""
    others: tuple[int, ...]
    """ptrace, process_vm_readv, process_vm_writev, kill, tkill, rt_sigqueueinfo."""
    tgkill: int
    """Allowed to this process itself: that is how abort() works."""


_ANYWHERE: Final = (425, 426, 427, 424)
"""io_uring_setup, io_uring_enter, io_uring_register (sockets without system calls), pidfd_send_signal."""

_TABLE: Final = {
    "x86_64": _Calls(0xC000003E, (41, 49, 50, 42, 43, 288, 44, 46, 307), (101, 310, 311, 62, 200, 129), 234),
    "aarch64": _Calls(
        0xC00000B7, (198, 200, 201, 203, 202, 242, 206, 211, 269), (117, 270, 271, 129, 130, 138), 131
    ),
    "arm": _Calls(0x40000028, (281, 282, 284, 283, 285, 366, 290, 296, 374), (26, 376, 377, 37, 238, 178), 268),
}


class _Program(ctypes.Structure):
    """`struct sock_fprog`."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def refuse_network() -> str | None:
    """Refuse this process sockets, and what reaches into other processes; return why not, None if it is so.

    To be called before there are other threads, which would go on as they were.
    """
    calls = _TABLE.get(_machine())
    if calls is None:
        return f"no filter is known for {platform.machine()}"
    if len(list(Path("/proc/self/task").iterdir())) > 1:
        return "other threads run already"
    content = program(calls, os.getpid())
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return _failure("no_new_privs")
    code = _Program(len(content) // 8, content)
    if libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(code), 0, 0) != 0:
        return _failure("seccomp")
    return None


def program(calls: _Calls, pid: int) -> bytes:
    """Return the filter: instructions of 8 bytes, `struct sock_filter`."""
    refused = (*calls.sockets, *calls.others, *_ANYWHERE)
    code = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_IF_EQUAL, 1, 0, calls.architecture),
        # The calls of another architecture, such as 32-bit x86, are another way to all of them.
        (_RETURN, 0, 0, _REFUSE),
        (_LOAD, 0, 0, _NUMBER),
        (_IF_EQUAL, 0, 2, calls.tgkill),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_IF_EQUAL, len(refused) + 1, len(refused) + 2, pid),
        *((_IF_EQUAL, len(refused) - index + 1, 0, number) for index, number in enumerate(refused)),
        (_IF_AT_LEAST, 1, 0, _X32 if calls is _TABLE["x86_64"] else 0xFFFFFFFF),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _REFUSE),
    ]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def _machine() -> str:
    machine = platform.machine()
    is_arm = machine.startswith("armv") or (machine == "aarch64" and struct.calcsize("P") == 4)
    return "arm" if is_arm else machine


def _failure(what: str) -> str:
    return f"this kernel refuses {what} ({os.strerror(ctypes.get_errno())})"
