"""Files: one look at sendfile, on this loop."""

from checker import Recorder, receive_all, receive_exactly


async def test_a_file_is_sent_through_a_transport(loop, socket_pair, tmp_path):
    one, other = socket_pair
    payload = bytes(range(256)) * 2000
    (tmp_path / "file").write_bytes(payload)
    transport, protocol = await loop.create_connection(Recorder, sock=one)
    transport.write(b"head")
    with open(tmp_path / "file", "rb") as file:
        sending = loop.create_task(loop.sendfile(transport, file))
        assert await receive_exactly(loop, other, 4 + len(payload)) == b"head" + payload
        assert await sending == len(payload)
    transport.write(b"tail")
    transport.close()
    assert await receive_all(loop, other) == b"tail"
    await protocol.lost


async def test_a_file_is_sent_through_a_socket(loop, socket_pair, tmp_path):
    one, other = socket_pair
    payload = bytes(range(256)) * 2000
    (tmp_path / "file").write_bytes(payload)
    with open(tmp_path / "file", "rb") as file:
        sending = loop.create_task(loop.sock_sendfile(one, file, 256, 1000 * 256))
        assert await receive_exactly(loop, other, 1000 * 256) == payload[: 1000 * 256]
        assert await sending == 1000 * 256
