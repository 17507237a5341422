"""Several data sets as one, tokens named <dataset>/<token>: `recbole-qbert merge` as a script.

python dataset_scripts/merge_domains.py --datasets=A,B --into=AB --data_path=dataset
"""

import sys

from recbole_qbert.cli import main

if __name__ == "__main__":
    sys.exit(main(["merge", *sys.argv[1:]]))
