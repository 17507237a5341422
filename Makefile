.DELETE_ON_ERROR:
.PHONY: demo test lint docs bench clean

# The first of these that is a Python with a tested set of packages, able to make virtual
# environments; that a command of the name exists is not enough (pyenv puts one there for every
# version).
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.10; do \
	$$p -c 'import ensurepip, sys, venv; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 14))' \
	>/dev/null 2>&1 && { echo $$p; break; }; done)
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
CONSTRAINTS := constraints/python$(VERSION).txt
STAMP := .venv/.installed-$(VERSION)

demo: $(STAMP)
	.venv/bin/python run_recbole_qbert.py

test: $(STAMP)
	.venv/bin/python -m pytest -n 3 --dist worksteal

lint: $(STAMP)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy recbole_qbert

docs: $(STAMP)
	.venv/bin/pip install -c $(CONSTRAINTS) -e '.[docs]'
	.venv/bin/mkdocs build --strict

bench: $(STAMP)
	.venv/bin/python -m benchmarks

# Data sets (dataset/) and trained models (saved/) are kept.
clean:
	rm -rf .venv build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# An environment of another Python is made anew. RecBole's own pins have no build for Python 3.12
# and later; on 3.10 and 3.11 it is there already and its line does nothing.
$(STAMP): setup.cfg pyproject.toml $(wildcard constraints/*.txt)
	@test -f $(CONSTRAINTS) || { \
	echo "Python 3.10 to 3.13 is needed (with venv); install one or give it: make PYTHON=..." >&2; exit 1; }
	test -f $@ || rm -rf .venv
	rm -f $@
	$(PYTHON) -m venv .venv
	.venv/bin/pip install -c $(CONSTRAINTS) -e '.[dev]'
	.venv/bin/pip install -c $(CONSTRAINTS) --no-deps recbole==1.2.1
	touch $@
