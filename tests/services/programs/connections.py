"""Opens, uses and closes many connections, with plain blocking sockets in a few threads.

    connections.py KIND PORT COUNT [CERTIFICATES]

KIND is "http" or "echo"; with a folder of certificates, over TLS. Prints how many answers were right.
"""

import itertools
import socket
import struct
import sys
import threading
from pathlib import Path

from certificates import Certificates

REQUEST = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello"
RESET = struct.pack("ii", 1, 0)


def connect(port, context):
    sock = socket.create_connection(("127.0.0.1", port))
    return context.wrap_socket(sock, server_hostname="localhost") if context else sock


def use(kind, port, number, context):
    with connect(port, context) as sock:
        sock.sendall(REQUEST if kind == "http" else b"hello")
        answer = b""
        while not answer.endswith(b"hello"):
            data = sock.recv(1000)
            assert data, f"the answer ends with {answer!r}"
            answer += data
        if number % 3 == 0:
            # Every third client leaves without a word: the server sees a reset.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        elif number % 3 == 1 and context:
            sock.unwrap().close()
        elif number % 3 == 1:
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(1000):
                pass


def main(kind, port, count, context):
    numbers = itertools.count()
    answers = []

    def worker():
        while (number := next(numbers)) < count:
            use(kind, port, number, context)
            answers.append(number)

    threads = [threading.Thread(target=worker) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(len(answers))


if __name__ == "__main__":
    kind, port, count, *folder = sys.argv[1:]
    main(kind, int(port), int(count), Certificates(Path(*folder)).client_context() if folder else None)
