"""`recbole-qbert serve` and `export-onnx`: a trained model's bundle for other programs."""

from __future__ import annotations

import math
from types import SimpleNamespace

from recbole_qbert.commands.command import Command
from recbole_qbert.commands.recommend import load_recommender, set_titles
from recbole_qbert.common.errors import InputError, needs_extra

_TIMES = ("max_wait_ms", "timeout_s", "client_timeout_s")


def _serve(options: SimpleNamespace) -> int:
    import torch

    from recbole_qbert.common.process import n_cores
    from recbole_qbert.serving.recommender import checked_count

    with needs_extra("serve"):
        from recbole_qbert.service.app import ServiceLimits
        from recbole_qbert.service.server import listening, serve

    limits = ServiceLimits(*(getattr(options, name) for name in ServiceLimits._fields))
    for name, value in limits._asdict().items():
        if name not in _TIMES:
            checked_count(f"--{name}", value)
        elif value is None or not (0 < value < math.inf or (name, value) == ("max_wait_ms", 0)):
            raise InputError(f"--{name}={value}: give a number above 0")
    threads = checked_count("--threads", options.threads or n_cores())
    with listening(options.host, options.port) as listener:
        folder, recommender = load_recommender(options)
        set_titles(recommender, options)
        torch.set_num_threads(threads)
        serve(recommender, folder, limits, listener)
    return 0


def _export(options: SimpleNamespace) -> int:
    from recbole_qbert.common.files import check_output_file
    from recbole_qbert.common.output import new_console
    from recbole_qbert.common.process import quiet_recbole

    check_output_file("output", options.output)
    if options.output.exists() and not options.overwrite:
        raise InputError(f"--output={options.output}: exists; add --overwrite to replace it")
    with needs_extra("onnx"):
        from recbole_qbert.serving.onnx_export import export_onnx

    quiet_recbole()
    options.device = "cpu"
    folder, recommender = load_recommender(options)
    difference = export_onnx(recommender, folder, options.output)
    console = new_console(highlight=False)
    remark = f"scores differ from PyTorch's by at most {difference:.1e}"
    console.print(f"{options.output}: {recommender.config['model']}; {remark}", soft_wrap=True)
    return 0


SERVE = Command(
    "serve",
    "Answer requests for recommendations over HTTP, from a trained model's bundle.",
    _serve,
    arguments=("BUNDLE",),
    details="""
        recbole-qbert serve saved/results.jsonl --port=8000

        BUNDLE is as in recommend. POST /recommend, /recommend/batch and /explain take JSON;
        GET /health and /metrics describe the service; /docs lists all fields. SIGTERM stops it
        when the requests that have arrived are answered. Needs pip install 'recbole-qbert[serve]'.
        """,
)
EXPORT_ONNX = Command(
    "export-onnx",
    "Write the model of a bundle as an ONNX file, which scores all items for histories.",
    _export,
    arguments=("BUNDLE",),
    details="""
        recbole-qbert export-onnx saved/results.jsonl:QBERT4Rec --output=model.onnx

        BUNDLE is as in recommend. The file is written only if ONNX Runtime gives the scores of
        PyTorch. Needs pip install 'recbole-qbert[onnx]'.
        """,
)
