"""gunicorn's worker class: `gunicorn -k velodrome.gunicorn.Worker module:app` serves ASGI.

It is the worker of uvicorn (package `uvicorn-worker`), told which loop to make.
"""

from uvicorn_worker import UvicornWorker  # type: ignore[import-untyped]


class Worker(UvicornWorker):
    """uvicorn's worker, on velodrome."""

    CONFIG_KWARGS = UvicornWorker.CONFIG_KWARGS | {"loop": "velodrome:new_event_loop"}
