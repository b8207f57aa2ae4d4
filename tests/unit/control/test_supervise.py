"""The supervisor's end of the channel to serving."""

import asyncio
import signal
import socket

from edge_agent.control.children import ending
from edge_agent.control.supervise import _line


def test_a_write_to_a_killed_process_ends_the_channel_and_nothing_else() -> None:
    async def lines() -> bytes:
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=ours)
        reading = asyncio.create_task(_line(reader))
        await asyncio.sleep(0)
        theirs.close()
        # Before the loop has seen that the other end is gone.
        writer.write(b"a message\n")
        try:
            return await reading
        finally:
            writer.close()

    assert asyncio.run(lines()) == b""


def test_an_end_by_a_signal_without_a_name_is_told_by_its_number() -> None:
    assert ending(-signal.SIGSEGV).how == "was killed by SIGSEGV"
    assert ending(-(signal.SIGRTMIN + 1)).how == f"was killed by signal {signal.SIGRTMIN + 1}"
