"""The process of the service: its socket, its start and its stop."""

from __future__ import annotations

import contextlib
import functools
import socket
from pathlib import Path
from typing import Any

import uvicorn

from recbole_qbert.common.errors import InputError
from recbole_qbert.service.app import ServiceLimits, make_app
from recbole_qbert.service.guard import GuardedProtocol
from recbole_qbert.serving.recommender import Recommender


def listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens; port 0 is any free one.

    Raises:
        InputError: the address cannot be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        reason = str(getattr(error, "strerror", None) or error).partition(" (")[0]
        raise InputError(f"--host={host} --port={port}: {reason}; give another address") from None


def make_server(recommender: Recommender, folder: Path, limits: ServiceLimits) -> uvicorn.Server:
    """Create the server of a loaded bundle; for the arguments see `make_app`."""
    limited = (limits.max_connections, limits.client_timeout_s)
    protocol: Any = functools.partial(GuardedProtocol, limited)
    config = uvicorn.Config(
        make_app(recommender, folder, limits),
        http=protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
    )
    return uvicorn.Server(config)


def serve(
    recommender: Recommender, folder: Path, limits: ServiceLimits, listener: socket.socket
) -> None:
    """Answer requests until SIGTERM or SIGINT.

    Then no connection is accepted, and requests that have arrived are answered before the return.
    """
    host, port = listener.getsockname()[:2]
    server = make_server(recommender, folder, limits)
    shown = f"[{host}]" if ":" in host else host
    print(f"{recommender.config['model']} on http://{shown}:{port}", flush=True)
    # uvicorn raises the signal again when it has stopped, which the command turns into this.
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[listener])
