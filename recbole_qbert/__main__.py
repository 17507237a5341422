"""`python -m recbole_qbert` is `recbole-qbert`; torchrun starts it this way."""

import sys

from recbole_qbert.cli import main

sys.exit(main())
