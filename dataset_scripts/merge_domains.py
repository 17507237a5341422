"""Merge several data sets, with tokens named <dataset>/<token>; the same as `recbole-qbert merge`.

python dataset_scripts/merge_domains.py --datasets=A,B --into=AB --data_path=dataset
"""

import sys

from recbole_qbert.cli import main

if __name__ == "__main__":
    sys.exit(main(["merge", *sys.argv[1:]]))
