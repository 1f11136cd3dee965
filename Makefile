# Every target sets up what it needs under build/ and changes nothing else on the machine.
PYTHON ?= python3
VENV := build/venv
BIN := $(CURDIR)/$(VENV)/bin
export ANSIBLE_COLLECTIONS_PATH := $(CURDIR)/build/collections
# The project's own tools before the machine's.
export PATH := $(BIN):$(PATH)

.PHONY: help demo demo-rebuild test lint sanity integration molecule kmodctl pythons test-kernels test-transactions test-offered test-rebuild test-boot test-crash test-readme test-docs test-report test-ways ee docs capture bench bench-more fuzz clean clean-cache

help:
	@echo "make demo          the main job on an embedded demo fleet (a minute or two, 1 GiB)"
	@echo "make demo-rebuild  a driver is compiled for kernels before the hosts get them (about 2 minutes)"
	@echo "make test          unit tests and the integration tests that need no root"
	@echo "make lint          ruff, mypy, ansible-lint, changelog, documentation, licences"
	@echo "make sanity        ansible-test sanity"
	@echo "make integration   ansible-test integration: each module's own tasks, on directories"
	@echo "make kmodctl       build/kmodctl, the host's own command, in one file"
	@echo "make pythons       the core under every Python from 3.6 on that is on this machine"
	@echo "make molecule      deploy, repeat, follow kernels and remove in containers (root, podman; ONLY=fast without following)"
	@echo "make test-kernels  booted kernels judge the verdicts (QEMU; ONLY=fast for the short part)"
	@echo "make test-transactions  kernels come and go by apt, dpkg, rpm and dnf in chroots (root; ONLY=fast for 4 minutes)"
	@echo "make test-offered  the kernels that hosts would get, by the real apt and dnf (ONLY=fast for a minute)"
	@echo "make test-rebuild  drivers are compiled, signed and deployed by the role rebuild (ONLY=fast for 2 minutes)"
	@echo "make test-boot     deploy, boot, fall back and remove on real disks (root, QEMU)"
	@echo "make test-crash    every operation, killed, failed and cut off at each call (30 minutes; ONLY=fast for 3)"
	@echo "make fuzz          a million damaged modules, images, symvers and streams (COUNT=n for fewer)"
	@echo "make test-readme   the README's commands as they are printed, with the oldest and newest ansible-core (package index)"
	@echo "                   CORES='2.17 2.18' for other versions, CORES=all for every one"
	@echo "make test-docs     the commands of further pages of the documentation, as they are printed (package index)"
	@echo "make test-report   the fleet report in a browser: speed, size, accessibility, names with markup (chromium, node, npm)"
	@echo "make test-ways     ansible-pull, an execution environment, slices, images, Python 3.6 (root, podman, mmdebstrap; ONLY=fast for 1 minute)"
	@echo "make ee            an execution environment with this collection (podman, a container registry)"
	@echo "make capture       docs/demo.svg, the picture of make demo in the README"
	@echo "make docs          build/docs, the documentation as a site"
	@echo "make bench         figures against the peers, into docs/benchmarks.md and docs/scale.md (15 minutes; ONLY=task for one part)"
	@echo "make clean         remove what was built here, caches of tools included"
	@echo "make clean-cache   remove what the demo and the tests fetched, kept in ~/.cache/outoftree.kmod"

$(VENV)/.demo: requirements.txt
	@command -v $(PYTHON) > /dev/null || { echo "Python 3.11 or newer is needed (Debian: apt install python3-venv)"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; name one: make PYTHON=python3.12 ...") if sys.version_info < (3, 11) else None'
	@echo "Setting up $(VENV) ..."
	@test -x $(VENV)/bin/pip || $(PYTHON) -m venv --clear $(VENV) || { echo "The venv module of Python is needed (Debian: apt install python3-venv)"; exit 1; }
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check -r requirements.txt
	@mkdir -p build/collections/ansible_collections/outoftree
	@ln -sfn ../../../.. build/collections/ansible_collections/outoftree/kmod
	@touch $@

$(VENV)/.test: $(VENV)/.demo tests/requirements.txt
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	@touch $@

$(VENV)/.lint: $(VENV)/.test tests/requirements-lint.txt
	@echo "Setting up what the checks need ..."
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check -r tests/requirements-lint.txt
	@touch $@

$(VENV)/.docs: $(VENV)/.test tests/requirements-docs.txt
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check -r tests/requirements-docs.txt
	@touch $@

$(VENV)/.ways: $(VENV)/.test tests/requirements-ways.txt
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check -r tests/requirements-ways.txt
	@touch $@

demo: $(VENV)/.demo
	@$(BIN)/python -m demo

capture: $(VENV)/.demo
	@$(BIN)/python tools/capture.py docs/demo.svg make demo

demo-rebuild: $(VENV)/.demo
	@PYTHONPATH=$(CURDIR)/build/collections $(BIN)/python -m demo.rebuild

test: $(VENV)/.test
	$(BIN)/pytest -n auto tests/unit
	$(BIN)/pytest -v tests/integration

test-readme: $(VENV)/.test
	CORES="$(if $(filter all,$(CORES)),lowest 2.17 2.18 2.19 2.20 2.21 newest,$(or $(CORES),lowest newest))" $(BIN)/pytest -v tests/readme/test_readme.py

test-docs: $(VENV)/.test
	$(BIN)/pytest -v --durations=0 tests/readme/test_pages.py

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/mypy plugins/module_utils plugins/plugin_utils
	tests/in-collection-path $(BIN)/ansible-lint --offline --profile production
	$(BIN)/antsibull-changelog lint
	$(BIN)/antsibull-docs lint-collection-docs --plugin-docs .
	$(BIN)/reuse lint --quiet || $(BIN)/reuse lint

sanity: $(VENV)/.test
	tests/sanity/run

integration: $(VENV)/.test
	tests/in-collection-path $(BIN)/ansible-test integration --local --color no --python $$($(BIN)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')

molecule: $(VENV)/.lint
	tests/molecule/run $(if $(filter fast,$(ONLY)),-e follow)

kmodctl: $(VENV)/.demo
	@$(BIN)/python tools/build_kmodctl.py build/kmodctl

pythons: $(VENV)/.test kmodctl
	tests/pythons

test-kernels: $(VENV)/.test
	tests/kernel/run $(if $(filter fast,$(ONLY)),--fast)

test-transactions: $(VENV)/.test
	tests/transactions/run $(if $(filter fast,$(ONLY)),--fast)

test-offered: $(VENV)/.test
	$(BIN)/pytest -q -rs --durations=5 tests/offered

test-rebuild: $(VENV)/.test
	tests/rebuild/run $(if $(filter fast,$(ONLY)),--fast)

test-boot: $(VENV)/.test
	tests/boot/run $(if $(filter fast,$(ONLY)),--fast)
	PYTHON=$(BIN)/python tests/boot/run-initrd $(if $(filter fast,$(ONLY)),--fast)

test-crash: $(VENV)/.test
	tests/crash/run $(if $(filter fast,$(ONLY)),--fast)

test-report: $(VENV)/.test
	tests/report/run

test-ways: $(VENV)/.ways
	$(BIN)/pytest -v -rs --durations=0 $(if $(filter fast,$(ONLY)),tests/ways/test_slices.py tests/ways/test_pull.py,tests/ways)

docs: $(VENV)/.docs
	@$(BIN)/python tools/build_docs.py build/docs
	@echo "See build/docs/index.html"

ee: $(VENV)/.ways
	rm -rf build/ee
	ansible-galaxy collection build --output-path build/ee
	mv build/ee/outoftree-kmod-*.tar.gz build/ee/outoftree-kmod.tar.gz
	ansible-builder build -f execution-environment.yml -c build/ee/context -t outoftree-kmod-ee $(EE_OPTIONS)

bench: $(VENV)/.test
	PYTHONPATH=$(CURDIR)/build/collections $(BIN)/python -m tests.bench $(ONLY)

# What takes longer, and has its figures where they are explained.
bench-more: $(VENV)/.test
	set -e; for each in variant rebuild; do PYTHONPATH=$(CURDIR)/build/collections $(BIN)/python -m tests.bench.bench_$$each; done

fuzz: $(VENV)/.test
	$(BIN)/python -m tests.fuzz.fuzz $(COUNT)

# What the tests and the demo fetch is kept outside of the checkout, for all checkouts of this user.
CACHE := $(or $(OUTOFTREE_KMOD_CACHE),$(HOME)/.cache/outoftree.kmod)

clean:
	rm -rf build .pytest_cache .mypy_cache .ruff_cache .hypothesis .ansible outoftree-kmod-*.tar.gz
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

clean-cache:
	rm -rf "$(CACHE)"
