# make run     the default comparison, then its report
# make test    the tests
# make check   ruff and pyright
# Each first makes what it needs: .venv, from requirements.lock. Needed beforehand: Python 3.11 or later.
# Another Python: make run PYTHON=/path/to/python3

BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: run test check reference lock clean

run: $(INSTALLED)
	@NEAROPT_COMMAND=$(BIN)/nearopt $(BIN)/nearopt

test: $(INSTALLED)
	$(BIN)/python -m pytest -n auto --dist worksteal

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/pyright

# The results that the README shows, made again: all but the traces. Wants a quiet machine, and the extra peers.
reference: $(INSTALLED)
	@set -e; \
	$(BIN)/nearopt run experiment=first; \
	$(BIN)/nearopt speed peer_seconds=300; \
	$(BIN)/nearopt speed grow=true name=growth; \
	$(BIN)/nearopt speed evaluate=true name=evaluations; \
	$(BIN)/nearopt run experiment=dials; \
	$(BIN)/nearopt run experiment=suite; \
	$(BIN)/nearopt run experiment=pbt_vs_schedules; \
	mkdir -p results/reference/describe; \
	for name in suite leaders; do \
	  $(BIN)/nearopt describe experiment=$$name; \
	  cp results/describe/$$name/describe.csv results/reference/describe/$$name.csv; \
	done; \
	$(BIN)/nearopt run experiment=leaders; \
	$(BIN)/nearopt run experiment=training; \
	$(BIN)/nearopt run experiment=replicability; \
	$(BIN)/nearopt report results/replicability --replicability; \
	$(BIN)/nearopt speed train=digits,width=64,blocks=0; \
	for name in first speed growth evaluations dials suite pbt_vs_schedules leaders training throughput; do \
	  rm -rf results/reference/$$name; mkdir -p results/reference/$$name; \
	  tar -C results/$$name --exclude=trace --exclude='*.parquet' --exclude=report.html --exclude='*.clock.svg' --exclude='*.run.svg' --exclude='*.pdf' -cf - . \
	    | tar -C results/reference/$$name -xf -; \
	done; \
	rm -rf results/reference/replicability; mkdir -p results/reference/replicability/measures; \
	cd results/replicability; \
	cp replicability.csv replicability.md summary.csv leaders.csv experiment.json ../reference/replicability; \
	cp measures/leaders_in_general.csv ../reference/replicability/measures

# The build of the editable install needs setuptools, which is in the lock: nothing is fetched that is not.
$(INSTALLED): requirements.lock pyproject.toml
	@set -e; \
	for python in $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11 python) none; do \
	  if [ $$python = none ]; then \
	    echo "nearopt needs Python 3.11 or later, found none; name one: make run PYTHON=/path/to/python3" >&2; \
	    exit 1; \
	  fi; \
	  if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then break; fi; \
	done; \
	echo "Making .venv with $$($$python --version): fetching the" \
	  "$$(grep -c '^[a-z].*==' requirements.lock) packages of requirements.lock, once (JAX is the largest)."; \
	$$python -m venv .venv; \
	$(BIN)/python -m pip install --disable-pip-version-check --require-hashes -r requirements.lock; \
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation -e .; \
	touch $@

# For who changes the dependencies: needs uv. One lock for all platforms and Pythons.
lock:
	echo 'setuptools>=77' | uv pip compile --universal --python-version 3.11 --fork-strategy fewest \
	  pyproject.toml - --extra dev --generate-hashes --no-annotate --no-header \
	  --no-emit-index-url --no-emit-find-links --upgrade --output-file requirements.lock

clean:
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache
