from typing import Any, ClassVar

# At run time a subclass of `uvicorn_worker.UvicornWorker`, which has no types.
class Worker:
    """uvicorn's worker, on velodrome."""

    CONFIG_KWARGS: ClassVar[dict[str, Any]]
