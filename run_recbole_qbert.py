"""Train and compare models: python run_recbole_qbert.py --model=QBERT4Rec --dataset=X [--key=value]

Without arguments it runs the demo: the whole way on ml-100k, which RecBole ships.
"""

import sys

from recbole_qbert.cli import main

if __name__ == "__main__":
    sys.exit(main(["run", *sys.argv[1:]] if sys.argv[1:] else ["demo"]))
