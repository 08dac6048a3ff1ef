# Everything below works on a fresh checkout with Python 3.9+ and git; nothing has to be installed first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Built with the setuptools of the environment: pip would install another for each of these.
INSTALL := $(BIN)/python -m pip install --quiet --no-build-isolation --editable
EPOCHS ?= 40
WORKERS ?= 2
# Tests that need a runtime fail where it is absent, so that no run loses them unnoticed; `make test RUNTIMES=` skips them.
RUNTIMES ?= required

# The host's settings, datasets and runs stay in the checkout, and the host neither downloads nor installs by itself.
export YOLO_CONFIG_DIR := $(CURDIR)/$(VENV)/config
export YOLO_OFFLINE := true
export YOLO_AUTOINSTALL := false
# A file of tests goes to one process, which makes what its tests share once. By name, since the longest have few tests.
SHARED = -n $(WORKERS) --dist loadfile --no-loadscope-reorder
SERVE := $(BIN)/python -m http.server --directory site 8000

# The operator, the layer, rows, names and grafts: what a change breaks first, without processes or trained models.
FAST := $(addprefix tests/test_,$(addsuffix .py,shapes functional modules blocks rows operators recompute graft \
	graft_names parts state plugin cli architecture))

.PHONY: help setup train test test-fast coverage lint docs demo demo-test bench matrix configs clean
.DEFAULT_GOAL := help

help: ## list the commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

$(VENV)/ready: setup.py pyproject.toml
	@echo "== Setting up $(VENV): the package, Ultralytics and the tools of the tests"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip "setuptools>=64" wheel
	$(INSTALL) ".[dev]"
	$(BIN)/yolo settings datasets_dir="$(CURDIR)/datasets" runs_dir="$(CURDIR)/runs" weights_dir="$(CURDIR)/weights"
	@touch $@

setup: $(VENV)/ready ## make .venv and install everything

train: setup ## train YOLOv8n-AKConv on the bundled images and say where the weights lie
	@echo "== Training yolov8n-akconv.yaml on akconv-mini.yaml (32 real images, $(EPOCHS) epochs, 320 px)"
	$(BIN)/yolo train model=yolov8n-akconv.yaml data=akconv-mini.yaml epochs=$(EPOCHS) imgsz=320 batch=4 nbs=4 \
		project="$(CURDIR)/runs" name=akconv-mini
	@echo "== Done. The table above holds precision, recall, mAP50 and mAP50-95 of the best epoch on the 8 validation images."
	@run=$$(ls -td "$(CURDIR)"/runs/akconv-mini* | head -n 1); \
		echo "   weights: $$run/weights/best.pt"; \
		echo "   curves:  $$run/results.csv, $$run/results.png and the other pictures beside them"

# Apart from the set-up: a runtime without a wheel for this Python must not keep anybody from training.
$(VENV)/runtimes: $(VENV)/ready
	@echo "== Installing the runtimes of the export tests"
	@$(INSTALL) ".[dev,export]" || { \
		echo "== They do not install here, see above. 'make test RUNTIMES=' runs without them and skips their tests."; exit 1; }
	@touch $@

test coverage: export AKCONV_RUNTIMES := $(RUNTIMES)

test: $(if $(RUNTIMES),$(VENV)/runtimes,setup) ## run all tests, the slow ones too
	@echo "== Running the tests on $(WORKERS) processes"
	$(BIN)/python -m pytest $(SHARED)

test-fast: setup ## run the quick files of the operator, the layer and the models, without what is marked slow
	$(BIN)/python -m pytest -q $(SHARED) -m "not slow" $(FAST)

coverage: $(if $(RUNTIMES),$(VENV)/runtimes,setup) ## tell which lines of the package the tests do not reach; fails below 95 %
	$(BIN)/python -m pytest $(SHARED) --cov=ultralytics_akconv --cov-report=term-missing:skip-covered

lint: setup ## check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

docs: setup ## build the manual into site/
	$(INSTALL) ".[dev,docs]"
	$(BIN)/mkdocs build --strict
	@echo "== Done. Read it: $(SERVE), then open http://localhost:8000/"

# What the page "Try it" runs is of the newest trainings; neither the models nor the runtime are kept in git.
newest = $$(ls -t "$(CURDIR)"/runs/$(1)*/weights/best.pt 2> /dev/null | head -n 1)

demo: setup ## build the manual with the models and the runtime of its page "Try it"
	@command -v npm > /dev/null || { \
		echo "== npm is not there: install Node.js 18 or newer, or build the manual without models by 'make docs'"; exit 1; }
	@[ -n "$(call newest,akconv-mini)" ] || $(MAKE) train
	@[ -n "$(call newest,plain-mini)" ] || { \
		echo "== Training yolov8n.yaml in the same way, to stand beside it"; \
		$(BIN)/yolo train model=yolov8n.yaml data=akconv-mini.yaml epochs=$(EPOCHS) imgsz=320 batch=4 nbs=4 \
			project="$(CURDIR)/runs" name=plain-mini; }
	@mkdir -p build/demo && cp scripts/demo/*.json build/demo
	cp "$(call newest,akconv-mini)" build/demo/akconv.pt
	cp "$(call newest,plain-mini)" build/demo/plain.pt
	@echo "== Taking ONNX Runtime for browsers from npm, by scripts/demo/package-lock.json"
	npm ci --prefix build/demo --ignore-scripts --no-audit --no-fund
	$(BIN)/python scripts/make_demo.py --akconv build/demo/akconv.pt --plain build/demo/plain.pt \
		--runtime build/demo/node_modules/onnxruntime-web/dist
	$(MAKE) docs
	@echo "== Try it: $(SERVE), then open http://localhost:8000/try/"

demo-test: setup ## test both pages in a real browser; `make demo` first, or the page "Try it" is left out
	$(INSTALL) ".[dev,browser]"
	$(BIN)/python -m pytest tests/browser

bench: setup ## measure AKConv against Conv and against its peers on this machine
	$(BIN)/akconv benchmark op
	$(BIN)/akconv benchmark model

matrix: setup ## run the tests on older Ultralytics releases and write the table of the README
	$(INSTALL) ".[dev,matrix]"
	$(BIN)/python scripts/matrix.py --readme

configs: setup ## write cfg/models again from the installed Ultralytics
	$(BIN)/python scripts/make_configs.py

# What is kept may hold a dataset of somebody's or days of training: it goes by hand alone.
clean: ## remove .venv and what was built; says what it keeps
	rm -rf $(VENV) build dist site docs/assets/try *.egg-info
	@for folder in datasets runs weights .matrix; do \
		if [ -e "$$folder" ]; then echo "== kept $(CURDIR)/$$folder: remove it by hand if nothing in it is wanted"; fi; \
	done
