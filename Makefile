.DELETE_ON_ERROR:
.PHONY: demo test lint bench clean

# The first of these that is a working Python 3.10 or 3.11 able to make virtual environments;
# that a command of the name exists is not enough (pyenv puts one there for every version).
PYTHON ?= $(shell for p in python3.11 python3.10 python3; do \
	$$p -c 'import ensurepip, sys, venv; sys.exit(sys.version_info[:2] not in ((3, 10), (3, 11)))' \
	>/dev/null 2>&1 && { echo $$p; break; }; done)
STAMP := .venv/.installed

demo: $(STAMP)
	.venv/bin/python run_recbole_qbert.py

test: $(STAMP)
	.venv/bin/python -m pytest -n 2 --dist loadfile

lint: $(STAMP)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy recbole_qbert

bench: $(STAMP)
	.venv/bin/python -m benchmarks

# Data sets (dataset/) and trained models (saved/) are kept.
clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): setup.cfg pyproject.toml constraints.txt
	@python='$(PYTHON)'; test -n "$$python" || { \
	echo "Python 3.10 or 3.11 is needed (with venv); install one or give it: make PYTHON=..." >&2; exit 1; }
	rm -f $@
	$(PYTHON) -m venv .venv
	.venv/bin/pip install -c constraints.txt -e '.[dev]'
	touch $@
