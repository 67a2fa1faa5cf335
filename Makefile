# Two commands: `make demo` and `make test`. Each sets up .venv from scratch the first time.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.PHONY: demo test docs pytest lint types clean dist lowest test-lowest

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: $(VENV)/.installed
	$(BIN)/hubprobe demo --workspace demo-index

# Two cores: the types are checked beside the tests, which take longer; a third process has a core while one waits.
test: lint
	$(MAKE) --no-print-directory --jobs=2 types pytest

pytest: $(VENV)/.installed
	$(BIN)/python -m pytest -n 3

lint: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.installed
	$(BIN)/mypy

# The documentation as a site: open build/site/index.html.
docs: $(VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

# The wheel and the sdist, into dist/.
dist:
	$(PYTHON) -m venv build/venv
	build/venv/bin/python -m pip install --quiet build
	build/venv/bin/python -m build --outdir dist .

# Every dependency at the lower bound in pyproject.toml: LOWEST_PYTHON is the oldest Python that has wheels of them all.
LOWEST_PYTHON ?= python3.10
lowest:
	$(BIN)/python requirements/lowest.py

.venv-lowest/.installed: pyproject.toml requirements/lowest.txt
	$(LOWEST_PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --constraint requirements/lowest.txt '.[page,plots,ray,remote]' \
		'build>=1.2' 'hatchling>=1.27' 'hypothesis>=6.100' 'pytest>=8.3,<9.2' 'pytest-timeout>=2.3' \
		'pytest-xdist>=3.8' 'filelock>=3.16' 'moto[s3,server]>=5.1'
	touch $@

test-lowest: .venv-lowest/.installed
	.venv-lowest/bin/python requirements/lowest.py --check
	PYTHONPATH=. .venv-lowest/bin/python -m pytest -m 'not slow and not gpu and not network'

clean:
	rm -rf $(VENV) .venv-lowest demo-index build dist *.egg-info
