"""An HTTP service: a small ASGI application under uvicorn, on the loop that --loop names.

    python examples/http_service.py --loop velodrome --port 8000
    curl http://127.0.0.1:8000/ ; curl -d 'some text' http://127.0.0.1:8000/echo

The only line that knows of velodrome is the one that chooses the loop factory.
"""

import argparse
import asyncio
import socket

import uvicorn


async def application(scope, receive, send):
    """GET / greets; POST /echo sends the body back."""
    body = b""
    more = True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            return  # the client has gone
        body += message.get("body", b"")
        more = message.get("more_body", False)

    match scope["method"], scope["path"]:
        case "GET", "/":
            status, answer = 200, b"Hello from an asyncio event loop!\n"
        case "POST", "/echo":
            status, answer = 200, body
        case _:
            status, answer = 404, b"Not here.\n"
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(answer))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


def loop_factory(name):
    if name == "velodrome":
        import velodrome

        return velodrome.new_event_loop
    return asyncio.SelectorEventLoop


def listening_socket(port):
    # The protocol is named because asyncio turns Nagle's algorithm off only for sockets that have
    # it; else an answer written in two parts, as uvicorn does, waits 40 ms for the second.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(1024)
    return listener


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--loop", choices=["velodrome", "asyncio"], default="velodrome")
    parser.add_argument("--port", type=int, default=0, help="0, the default, takes a free one")
    arguments = parser.parse_args()

    config = uvicorn.Config(application, lifespan="off", log_level="warning", access_log=False)
    runner_of_choice = asyncio.Runner(loop_factory=loop_factory(arguments.loop))
    with listening_socket(arguments.port) as listener, runner_of_choice as runner:
        loop = runner.get_loop()
        host, port = listener.getsockname()
        # One line, for a person and for http_compare.py: the socket listens already.
        print(f"http://{host}:{port} on {type(loop).__module__}.{type(loop).__qualname__}", flush=True)
        try:
            runner.run(uvicorn.Server(config).serve(sockets=[listener]))
        except KeyboardInterrupt:
            pass  # Ctrl-C is how it ends; uvicorn has finished what was open


if __name__ == "__main__":
    main()
