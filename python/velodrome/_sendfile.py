"""`loop.sendfile` over a native transport. Over other transports it is asyncio's own, as is
`sock_sendfile`.

asyncio borrows the socket of its transport and lets `sock_sendfile` wait for it. That one waits for
ever when the transport is closed meanwhile, and given up does not tell where it was in the file.
"""

import asyncio
import os


async def send_over_transport(loop, transp, file, offset, count):
    """`loop._sendfile_native` for a native stream transport."""
    resume_reading = transp.is_reading()
    # Refused while another sendfile is under way. Whatever ends this one then undoes it.
    emptied = transp._make_empty_waiter()
    try:
        transp.pause_reading()
        await emptied
        return await _send_file(loop, transp, file, offset, count)
    finally:
        transp._take_back_socket()
        transp._reset_empty_waiter()
        if resume_reading:
            transp.resume_reading()


async def _send_file(loop, transp, file, offset, count):
    """Send what asyncio would, with its errors; ConnectionError if the transport is closed."""
    loop._check_sendfile_params(transp._sock, file, offset, count)
    try:
        source = file.fileno()
        block_size = count or os.fstat(source).st_size
    except (AttributeError, OSError):
        raise asyncio.SendfileNotAvailableError("not a regular file") from None
    if not block_size:
        return 0
    sent = 0
    try:
        while sent != count:
            writable = transp._lend_socket()
            size = block_size if count is None else count - sent
            try:
                step = os.sendfile(transp._sock_fd, source, offset + sent, size)
            except (BlockingIOError, InterruptedError):
                pass
            except OSError as exc:
                if not sent:
                    raise asyncio.SendfileNotAvailableError("os.sendfile call failed") from exc
                raise
            else:
                if not step:
                    break
                sent += step
            await _until_writable(loop, transp._sock_fd, writable)
        return sent
    finally:
        os.lseek(source, offset + sent, os.SEEK_SET)


async def _until_writable(loop, fd, writable):
    loop.add_writer(fd, lambda: writable.done() or writable.set_result(None))
    try:
        await writable
    finally:
        # The transport has failed `writable` before it closes the descriptor: this is in time.
        loop.remove_writer(fd)
