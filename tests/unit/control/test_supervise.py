"""The supervisor's end of the channel to serving."""

import asyncio
import socket

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
