# `make demo` and `make test` need Python 3.11+ and nothing else; each sets up .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := .demo/sample

.PHONY: setup demo test check fix docs sameness soak bench engines-env check-lerobot clean

setup: $(VENV)/.ready

# uv is used where it is there; it is only faster.
$(VENV)/.ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; name one with PYTHON=python3.12"; exit 1; }
	@if command -v uv >/dev/null 2>&1; then \
	  test -x $(BIN)/python || uv venv -q -p $(PYTHON) $(VENV); \
	  uv pip install -q -p $(BIN)/python -e '.[dev]'; \
	else \
	  test -x $(BIN)/python || $(PYTHON) -m venv $(VENV); \
	  $(BIN)/python -m pip install -q --disable-pip-version-check -e '.[dev]'; \
	fi
	@touch $@

demo: setup
	@rm -rf $(DEMO)
	@$(BIN)/python examples/make_sample.py $(DEMO)
	@BIN=$(BIN) DEMO=$(DEMO) sh examples/demo.sh

test: setup check
	@$(BIN)/python -m pytest -n 2 -rs $(ARGS)

check: setup
	@$(BIN)/ruff format --check -q . && $(BIN)/ruff check -q . && $(BIN)/pyright

fix: setup
	@$(BIN)/ruff check --fix -q . ; $(BIN)/ruff format -q .

# The pages that are generated from the code.
docs: setup
	@page=$$($(BIN)/python scripts/generate_cli_docs.py) && printf "%s\n" "$$page" > docs/cli.md
	@page=$$($(BIN)/python scripts/generate_event_docs.py) && printf "%s\n" "$$page" > docs/events.md
	@page=$$($(BIN)/python scripts/draw_architecture.py) && printf "%s\n" "$$page" > docs/architecture.svg

# Is what the command does to known datasets what it was? A quick half of it is in `make test`; this compares all, in four
# minutes. `python scripts/sameness.py record` records anew what was meant to change.
sameness: setup
	@$(BIN)/python scripts/sameness.py check $(ARGS)

# The long tests, with Python 3.11, 3.12 and 3.13 where they are there, and with the lowest versions of all dependencies.
soak: setup
	@$(BIN)/python tests/soak/environments.py $(ARGS)

# Figures, not pass or fail of the test suite; each prints ratios to a floor measured in the same run.
bench: setup
	@for b in tests/bench/bench_*.py; do echo "== $$b"; $(BIN)/python $$b $(ARGS) || exit 1; done

# vLLM for the CPU, transformers and torch, for the tests of the real engines: 2.8 GB, Python 3.11 on Linux. Without it
# `make test` leaves those tests out, and says so.
engines-env:
	@$(PYTHON) tests/vlm/engines_env.py .venv-engines

# LeRobot itself reads the result: needs Python 3.12 and several GB; see docs/check_lerobot.md.
check-lerobot: setup
	@sh tests/lerobot/check.sh

clean:
	rm -rf $(VENV) .venv-engines .venv-soak .demo .pytest_cache .ruff_cache .hypothesis
