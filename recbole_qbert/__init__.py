"""Q-BERT4Rec and semantic-ID sequential recommendation for RecBole 1.2.1.

Importing this package is enough for RecBole to use it: it applies workarounds, makes checkpoints
safe, and lets every model of `registry.MODEL_TABLE` be named wherever RecBole takes a model name.
"""

from recbole_qbert.common import startup

# If this process is the command, `--help`, `--version` and mistakes in its flags exit here, because
# the imports below take seconds. In any other process this block does nothing.
if (_words := startup.command_line()) is not None:
    startup.use_utf8()

    from recbole_qbert import cli

    cli.answer(_words)

from recbole_qbert import compat  # noqa: E402

compat.apply()

from recbole_qbert import registry  # noqa: E402
from recbole_qbert._version import __version__  # noqa: E402
from recbole_qbert.common.errors import InputError  # noqa: E402
from recbole_qbert.config import recbole_hooks  # noqa: E402
from recbole_qbert.data.dataset import SemanticIDDataset  # noqa: E402
from recbole_qbert.models.qbert4rec import QBERT4Rec  # noqa: E402
from recbole_qbert.registry import register  # noqa: E402
from recbole_qbert.speedups import prefix_batches  # noqa: E402
from recbole_qbert.training import checkpoint  # noqa: E402

checkpoint.install()
recbole_hooks.install()
prefix_batches.install()
registry.register_own_models()
registry.load_plugins()

__all__ = ["InputError", "QBERT4Rec", "SemanticIDDataset", "__version__", "register"]
