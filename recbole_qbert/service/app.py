"""The service's application: end points, checks of requests, and errors."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.routing import Route

from recbole_qbert._version import __version__
from recbole_qbert.common.errors import InputError, did_you_mean
from recbole_qbert.common.hashes import sha256_file
from recbole_qbert.common.output import counted
from recbole_qbert.common.process import flush_denormals
from recbole_qbert.data.codec import quote
from recbole_qbert.service import schemas
from recbole_qbert.service.answering import Answerer, ExplainJob, Job, ListOptions, ListsJob
from recbole_qbert.service.batching import Batcher, QueueFull, TooLate
from recbole_qbert.service.guard import Guard
from recbole_qbert.service.metrics import CONTENT_TYPE, Metrics
from recbole_qbert.serving.recommender import Recommender, checked_count

REQUESTS = (schemas.RecommendRequest, schemas.BatchRequest, schemas.ExplainRequest)
_FIELDS = {name for request in REQUESTS for name in request.model_fields}
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": schemas.ErrorAnswer, "description": meaning}
    for status, meaning in {
        400: "The body is not JSON.",
        408: "The body was not received in time.",
        413: "The body is too large.",
        422: "A field is wrong, or no item of the history is known.",
        503: "Too many requests wait; try again later.",
        504: "There was no answer in time.",
    }.items()
}


class ServiceLimits(NamedTuple):
    """Limits of the service: the flags of `recbole-qbert serve`."""

    max_batch_size: int
    max_wait_ms: float
    max_queue: int
    max_body_bytes: int
    max_histories: int
    max_k: int
    max_connections: int
    timeout_s: float
    client_timeout_s: float


def make_app(recommender: Recommender, folder: Path, limits: ServiceLimits) -> FastAPI:
    """Create the application for a loaded bundle.

    Args:
        recommender: the bundle, loaded.
        folder: folder of the bundle.
        limits: limits of the service.
    """
    answerer = Answerer(recommender, limits.max_batch_size)

    def answers(jobs: Sequence[Job]) -> list[bytes | InputError]:
        metrics.batch(sum(map(_n_rows, jobs)))
        return answerer(jobs)

    batcher = Batcher(
        answers,
        max_batch_size=limits.max_batch_size,
        max_wait_s=limits.max_wait_ms / 1000,
        max_queue=limits.max_queue,
        timeout_s=limits.timeout_s,
        start=flush_denormals,
    )

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        answerer([_lists_job([recommender.tokens[:1]], schemas.ListRequest())])  # the first is slow
        async with batcher.running():
            yield

    app = FastAPI(
        title="recbole-qbert",
        description="Recommendations of a model bundle.",
        version=__version__,
        lifespan=lifespan,
        redoc_url=None,
    )
    health = schemas.HealthAnswer(
        ready=True,
        model=recommender.config["model"],
        n_items=len(recommender.tokens),
        version=__version__,
        bundle=sha256_file(folder / "manifest.json"),
    )

    async def answer(job: Job) -> Response:
        return Response(await batcher.answer(job, _n_rows(job)), media_type="application/json")

    def check_k(k: int) -> None:
        checked_count("k", k, len(recommender.tokens))
        if k > limits.max_k:
            raise InputError(f"k: {k} is above --max_k={limits.max_k}; ask for fewer items")

    @app.post("/recommend", response_model=schemas.RecommendAnswer, responses=_ERRORS)
    async def recommend(request: schemas.RecommendRequest) -> Response:
        """Recommend items for one history."""
        check_k(request.k)
        return await answer(_lists_job([request.items], request))

    @app.post("/recommend/batch", response_model=schemas.BatchAnswer, responses=_ERRORS)
    async def recommend_batch(request: schemas.BatchRequest) -> Response:
        """Recommend items for several histories."""
        check_k(request.k)
        if len(request.histories) > limits.max_histories:
            allowed = counted(limits.max_histories, "history", "histories")
            raise InputError(f"histories: {len(request.histories)}; send at most {allowed}")
        return await answer(_lists_job(request.histories, request, several=True))

    @app.post("/explain", response_model=schemas.ExplainAnswer, responses=_ERRORS)
    async def explain(request: schemas.ExplainRequest) -> Response:
        """Explain the scores of items after one history."""
        return await answer(ExplainJob(request.items, request.explain, request.n_removals))

    @app.get("/health")
    async def state() -> schemas.HealthAnswer:
        """Describe the service."""
        return health

    @app.get("/metrics", response_class=Response)
    async def counters() -> Response:
        """Return counters in the text format of Prometheus."""
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    _add_errors(app)
    paths = frozenset(route.path for route in app.routes if isinstance(route, Route))
    metrics = Metrics(paths, batcher.__len__)
    app.add_middleware(
        Guard,
        max_body_bytes=limits.max_body_bytes,
        timeout_s=limits.client_timeout_s,
        metrics=metrics,
    )
    return app


def _lists_job(
    histories: list[list[str]], request: schemas.ListRequest, several: bool = False
) -> ListsJob:
    candidates = None if request.candidates is None else tuple(request.candidates)
    options = ListOptions(request.exclude_seen, candidates, tuple(request.exclude))
    return ListsJob(histories, request.k, options, several)


def _n_rows(job: Job) -> int:
    return len(job.histories) if isinstance(job, ListsJob) else 1 + len(set(job.history))


def _add_errors(app: FastAPI) -> None:
    """Answer every error as `{"error": "one line"}`."""

    @app.exception_handler(InputError)
    async def wrong_value(request: Request, error: InputError) -> Response:
        return _error(422, str(error))

    @app.exception_handler(RequestValidationError)
    async def wrong_field(request: Request, error: RequestValidationError) -> Response:
        kind = request.headers.get("content-type", "none")
        return _error(*_described(error.errors()[0], kind))

    @app.exception_handler(HTTPException)
    async def wrong_request(request: Request, error: HTTPException) -> Response:
        headers = dict(error.headers or {})
        return _error(
            error.status_code,
            f"{request.method} {quote(request.url.path)}: {error.detail}",
            headers,
        )

    @app.exception_handler(QueueFull)
    async def queue_full(request: Request, error: QueueFull) -> Response:
        return _error(503, "too many requests wait; try again later", {"Retry-After": "1"})

    @app.exception_handler(TooLate)
    async def too_late(request: Request, error: TooLate) -> Response:
        return _error(504, "no answer in time; try again later")

    @app.exception_handler(Exception)
    async def fault(request: Request, error: Exception) -> Response:
        return _error(500, "internal error; the log of the service describes it")


def _described(error: dict[str, Any], content_type: str) -> tuple[int, str]:
    """Return the status and the message for a fault that FastAPI has found in a body."""
    _, *place = error["loc"]
    if error["type"] == "json_invalid":
        return 400, f"body: not JSON ({error['ctx']['error']} at character {place[0]})"
    if not place:
        return 422, f"body: not a JSON object, or not of type application/json ({content_type})"
    name = ".".join(map(str, place))
    hint = did_you_mean(name, _FIELDS) if error["type"] == "extra_forbidden" else ""
    field = name if name in _FIELDS else quote(name)
    return 422, f"{field}: {error['msg']}{hint}"


def _error(status: int, error: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": error}, status, headers)
