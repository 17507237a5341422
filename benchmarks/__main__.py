"""QBERT4Rec beside RecBole's BERT4Rec: training, ranking, time to the best epoch, memory.

    python -m benchmarks speed --dataset=Instruments --data_path=dataset
    python -m benchmarks best --dataset=Instruments --data_path=dataset --budget=1800
    python -m benchmarks race --dataset=Instruments --data_path=dataset --epochs=6
    python -m benchmarks peer --peer=FDSA --dataset=Instruments --data_path=dataset
    python -m benchmarks memory --dataset=Games --data_path=dataset
    python -m benchmarks dropout
    python -m benchmarks quantise --items=1000000 --dimension=256

Every side runs in a process of its own, one after the other, on the same machine in the same call.
Both models have the same width, depth and length, but for `race`: SASRec and QBERT4Rec as tuned for
the data set, to SASRec's best valid NDCG@10 with seen items excluded, SASRec once padded as RecBole
trains it and once without (`trim_padding`); QBERT4Rec also reads further `--key=value`. `peer` is
a model of RecBole's as tuned for the data set (S3Rec in its first stage): computed as RecBole does,
then without needless work (recbole_qbert/lean_forward.py, s3rec_first_stage.py), then with a user's
rows in one batch (`batch_by: user`). Peers:
`recbole` is RecBole 1.2.1 as it ships (`recbole_qbert` is never imported), `mended` the same model
under this package, whose workarounds turn autograd's anomaly detection off. Without a data set
ml-100k is used, which RecBole ships.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

from benchmarks import sides


def main() -> int:
    """Parse, run the sides one after the other, print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("what", nargs="?", default="speed", choices=sorted(sides.MEASURES))
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--data_path", help="default: dataset; of ml-100k RecBole's own sample")
    parser.add_argument("--semantic_id_file")
    parser.add_argument("--hidden_size", type=int, default=128)
    parser.add_argument("--n_layers", type=int, default=2)
    parser.add_argument("--length", type=int, default=50)
    parser.add_argument("--steps", type=int, default=20, help="timed training steps")
    parser.add_argument("--budget", type=float, default=1800, help="seconds a side may train")
    parser.add_argument("--peer", default="SASRec", help="the model of `peer`")
    parser.add_argument("--items", type=int, default=1_000_000, help="of quantise")
    parser.add_argument("--dimension", type=int, default=256, help="of quantise")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--side", help=argparse.SUPPRESS)
    options, others = parser.parse_known_args()
    if others and options.what != "race":
        parser.error(f"unknown: {' '.join(others)}")
    if not options.data_path:
        options.data_path = recbole_sample() if options.dataset == "ml-100k" else "dataset"
    options.settings = {}
    if others:  # not before: the side `recbole` must stay without this package
        from recbole_qbert.commands.settings import parse_settings

        options.settings = parse_settings(others)
    if options.side:
        print(json.dumps(sides.MEASURES[options.what][options.side](options)))
        return 0
    sizes = f"width {options.hidden_size}, {options.n_layers} layers, length {options.length}"
    subject = {
        "quantise": f"{options.items:,} items of dimension {options.dimension}",
        "race": f"{options.dataset}, as tuned",
        "peer": f"{options.dataset}, {options.peer} as tuned",
    }.get(options.what, f"{options.dataset}: {sizes}")
    print(
        f"{options.what} on {subject}; {platform.machine()}, {options.threads} threads, "
        f"Python {platform.python_version()}"
    )
    results = {}
    for side in sides.MEASURES[options.what]:
        results[side] = run_side(side)
        print(
            f"{side:>10}: "
            + ", ".join(f"{k} {v:,.4g}" for k, v in results[side].items() if k != "curve")
        )
    for line in sides.compare(options.what, results):
        print(line)
    return 0


def recbole_sample() -> str:
    """The folder of data sets that RecBole ships."""
    spec = importlib.util.find_spec("recbole")
    assert spec is not None and spec.origin is not None  # it is installed
    return str(Path(spec.origin).parent / "dataset_example")


def run_side(side: str) -> dict[str, float]:
    """This very command again, for one side; its last line is the result."""
    command = [sys.executable, "-m", "benchmarks", *sys.argv[1:], f"--side={side}"]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, cwd=Path(__file__).parents[1]
    )
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


if __name__ == "__main__":
    sys.exit(main())
