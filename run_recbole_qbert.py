"""Train and compare models: python run_recbole_qbert.py --model=QBERT4Rec --dataset=X [--key=value]

Without arguments it runs the demo: the whole way on ml-100k, which RecBole ships. With another
command of `recbole-qbert` before the flags it runs that one.
"""

import sys

from recbole_qbert.cli import main
from recbole_qbert.common.startup import script_line

if __name__ == "__main__":
    sys.exit(main(script_line(sys.argv[1:])))
