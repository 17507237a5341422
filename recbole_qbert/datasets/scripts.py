"""Functions that the scripts in `dataset_scripts/` share."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from recbole_qbert.common.errors import InputError
from recbole_qbert.common.files import system_faults
from recbole_qbert.common.output import ended_by_closed_pipe, plain_output
from recbole_qbert.common.signals import ended_by_sigterm
from recbole_qbert.common.startup import use_utf8


def run_script(main: Callable[[], None]) -> None:
    """Run a script and exit with status 0, 2 after a user error (one line on stderr), or 130."""
    use_utf8()
    name = Path(sys.argv[0]).name
    try:
        with ended_by_closed_pipe(), plain_output(), ended_by_sigterm(), system_faults():
            main()
    except InputError as error:
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"{name}: stopped; repeat the command to go on", file=sys.stderr)
        sys.exit(130)
    sys.exit(0)


def comma_list(text: str) -> list[str]:
    """Split `a,b` into `["a", "b"]`; for argparse."""
    return [part for part in text.split(",") if part]
