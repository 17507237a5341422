"""The same as `recbole-qbert prepare export`; --help lists its flags."""

import sys

from recbole_qbert.cli import main

if __name__ == "__main__":
    sys.exit(main(["prepare", "export", *sys.argv[1:]]))
