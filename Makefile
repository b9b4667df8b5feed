# token-relay: the two commands are `make demo` and `make test`. `make help` lists the rest.
# Needs Python >= 3.11 and its venv module; everything else goes into .venv.

PYTHON ?= $(firstword $(foreach p,python3 python3.14 python3.13 python3.12 python3.11,$(shell \
	$(p) -c 'import sys; sys.version_info >= (3, 11) and print(sys.executable)' 2>/dev/null)))
VENV := .venv
BIN := $(VENV)/bin
PIP := -m pip --disable-pip-version-check --quiet install --constraint constraints.txt
WORLD := .venv-world
PROVIDERS := .venv-providers
DEMO := $(if $(PROFILE),--profile $(PROFILE)) $(if $(FAST),--fast) $(if $(STEP),--step)

# Compiled files go into .venv too: `make demo` leaves nothing beside the sources.
export PYTHONPYCACHEPREFIX := $(CURDIR)/$(VENV)/pycache
unexport PYTHONDONTWRITEBYTECODE  # else each program of each test compiles everything anew

.PHONY: help protocol docs-img pictures demo quick test test-world test-long test-fresh check bench vectors openapi fuzz simulate simulate-long conversations walks exhaustive mutants chaos provider-kills install uninstall test-booted clean system-packages
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

demo: $(VENV)/.runtime  ## watch a grant travel: PROFILE=entra|auth0|strict FAST=1 STEP=1
	@$(BIN)/token-relay demo $(DEMO)

quick: $(VENV)/.development  ## the tests of pure code, which need no socket and no process: half a minute
	@$(BIN)/python -m pytest -p tests.quick -q -n auto --dist loadfile $(ARGS)

test: $(VENV)/.development system-packages  ## run all tests, the simulation beside them; ARGS="..." goes to pytest alone
	@$(BIN)/python $(if $(ARGS),-m pytest $(ARGS),-m tests.run)

test-world: $(WORLD)/.installed $(PROVIDERS)/.installed system-packages  ## vendors' SDKs and foreign programs, in an environment of their own
	@PYTHONPYCACHEPREFIX="$(CURDIR)/$(WORLD)/pycache" $(WORLD)/bin/python -m tests.run --world

test-long:  ## simulate-long, chaos, provider-kills, exhaustive and all mutants: hours; N=SEEDS
	@$(MAKE) --no-print-directory simulate-long N=$(or $(N),100000)
	@$(MAKE) --no-print-directory simulate-long N=$(or $(N),5000) TIER=real
	@$(MAKE) --no-print-directory chaos N=
	@$(MAKE) --no-print-directory provider-kills N=
	@$(MAKE) --no-print-directory exhaustive
	@$(MAKE) --no-print-directory mutants

check: $(VENV)/.development  ## formatting, lint, types
	@$(BIN)/ruff format --check --quiet . || { echo "run: $(BIN)/ruff format ."; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy

bench: $(VENV)/.development system-packages  ## print the table of ratios; ARGS="--quick"
	@$(BIN)/python -m benchmarks $(ARGS)

protocol: $(VENV)/.runtime  ## make from docs/spec/protocol.json: tables, diagrams, messages.schema.json
	@$(BIN)/python docs/spec/make_spec.py

vectors: $(VENV)/.development  ## make tests/vectors anew
	@$(BIN)/python tests/vectors/make.py
	@$(BIN)/python -m tests.conversations.make

openapi: $(VENV)/.development  ## make docs/api anew: OpenAPI and Postman, out of the client's models
	@$(BIN)/python tests/api/make.py

pictures: $(VENV)/.development system-packages  ## take the pictures of the pages anew, from a real run: docs/img/*.png
	@$(BIN)/python docs/img/make_pictures.py

docs-img: $(VENV)/.runtime  ## draw anew: the rooms (docs/img/rooms.svg, docs/architecture.md)
	@$(BIN)/python docs/img/make_rooms.py

fuzz: $(VENV)/.development  ## mutated input for every decoder: T=SECONDS each, TARGET=, SEED=, REPLAY=FILE
	@$(BIN)/python tests/fuzz/fuzz.py --seconds $(or $(T),10) $(if $(TARGET),--target $(TARGET)) \
		$(if $(SEED),--seed $(SEED)) $(if $(REPLAY),--replay $(REPLAY)) $(ARGS)

simulate: $(VENV)/.development  ## check the promises in 10 200 fast and 510 real simulated histories
	@$(BIN)/python -m tests.run --histories

simulate-long: $(VENV)/.development  ## the same for N=1000000 seeds, resumable: FILE= TIER=fast|real START=
	@$(BIN)/python -m token_relay.simulation --count $(or $(N),1000000) --tier $(or $(TIER),fast) --start $(or $(START),0) \
		--resume $(or $(FILE),$(VENV)/simulate-$(or $(TIER),fast)-$(or $(START),0).json)

conversations: $(VENV)/.runtime  ## play the protocol's conversations against a program: ARGS="--end phone -- node my-phone.mjs"
	@$(BIN)/python -m tests.conversations $(or $(ARGS),--help)

walks: $(VENV)/.development  ## random conversations against our own ends: N=10000 FROM=0
	@$(BIN)/python -m tests.conversations.walks --end phone --count $(or $(N),10000) --from $(or $(FROM),0)
	@$(BIN)/python -m tests.conversations.walks --end companion --count $(or $(N),10000) --from $(or $(FROM),0)

exhaustive: $(VENV)/.development  ## every interleaving of a handoff, in larger worlds than `make test` has time for
	@$(BIN)/python tests/exhaustive/larger.py

mutants: $(VENV)/.development system-packages  ## apply protocol mistakes one by one: ONLY=id DRAW=N SEED= JOBS=2 WRITE=docs/mutants.md
	@$(BIN)/python -m tests.mutants --jobs $(or $(JOBS),2) $(if $(ONLY),--only $(ONLY)) \
		$(if $(DRAW),--draw $(DRAW) --seed "$(SEED)") $(if $(WRITE),--write $(WRITE)) $(ARGS)

chaos: $(VENV)/.development system-packages  ## kill -9 real agents and count what is lost: N=KILLS PROFILE=entra|auth0|strict SEED=
	@$(BIN)/python -m tests.chaos $(if $(N),--kills $(N)) $(if $(PROFILE),--profile $(PROFILE)) \
		$(if $(SEED),--seed $(SEED)) $(ARGS)

provider-kills: $(VENV)/.development $(PROVIDERS)/.installed system-packages  ## the same at providers that others wrote: N=ROUNDS PROVIDER= SEED=
	@$(BIN)/python -m tests.providers $(if $(N),--rounds $(N)) $(if $(PROVIDER),--provider $(PROVIDER)) \
		$(if $(SEED),--seed $(SEED))

install: $(VENV)/bin/python  ## as root: program, units, configuration: DESTDIR= PREFIX=/usr/local WHEEL=F WHEELS=DIR
	@DESTDIR="$(DESTDIR)" PREFIX="$(PREFIX)" WHEEL="$(WHEEL)" WHEELS="$(WHEELS)" PYTHON="$(SERVICE_PYTHON)" \
		BUILDER="$(CURDIR)/$(BIN)/python" systemd/install.sh

uninstall:  ## as root: remove what install brought; data, credentials and changed configuration stay
	@place="$(DESTDIR)/opt/token-relay"; [ -x "$$place/bin/python" ] || { echo "nothing is installed at $$place"; exit 0; }; \
	"$$place/bin/python" -I -m token_relay.cli service uninstall --root "$(or $(DESTDIR),/)" \
		--prefix "$(or $(PREFIX),/usr/local)" --program /opt/token-relay && rm -rf "$$place"

test-booted: $(VENV)/.development  ## as root: the services in a booted container: ARCH=arm64 SUITE=trixie KEEP=1
	@$(BIN)/python -m tests.booted $(if $(ARCH),--arch $(ARCH)) $(if $(SUITE),--suite $(SUITE)) $(if $(KEEP),--keep) $(ARGS)

test-booted-arm64:  ## the same for a Raspberry Pi's processor, under qemu-user: slow
	@$(MAKE) --no-print-directory test-booted ARCH=arm64

bench: NEEDS = mosquitto chromium
chaos: NEEDS = mosquitto

test-fresh: $(VENV)/bin/python  ## as root: demo and test on a bare Debian: SUITE=trixie AS_USER=1 KEEP=1 RUN="make check"
	@$(BIN)/python -m tests.fresh $(if $(SUITE),--suite $(SUITE)) $(if $(AS_USER),--as-user) $(if $(KEEP),--keep) \
		$(if $(RUN),--run '$(RUN)')

system-packages: $(VENV)/bin/python  # says what is missing and asks, unless CI=true or INSTALL=1; INSTALL=0: never
	@$(BIN)/python tests/needs.py $(NEEDS)

$(VENV)/bin/python:
	@[ -n "$(PYTHON)" ] && $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "Python 3.11 or newer is missing: sudo apt-get install python3 python3-venv"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "Python's venv module is missing: sudo apt-get install python3-venv"; exit 1; }
	@echo "making $(VENV)"; $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.runtime: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "installing into $(VENV)"; $(BIN)/python $(PIP) --editable . && touch $@

$(VENV)/.development: $(VENV)/.runtime
	@echo "installing what the tests need"; $(BIN)/python $(PIP) --editable '.[dev]' && touch $@

$(WORLD)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "installing what others wrote into $(WORLD)"; [ -x $(WORLD)/bin/python ] || $(BIN)/python -m venv $(WORLD)
	@$(WORLD)/bin/python $(PIP) --editable '.[dev,world]' && touch $@

$(PROVIDERS)/.installed: $(VENV)/bin/python tests/providers/requirements.txt
	@echo "installing identity providers of others into $(PROVIDERS)"; [ -x $(PROVIDERS)/bin/python ] || $(BIN)/python -m venv $(PROVIDERS)
	@$(PROVIDERS)/bin/python -m pip --disable-pip-version-check --quiet install --requirement tests/providers/requirements.txt && touch $@

clean:  ## remove .venv, caches and what the tests installed
	@rm -rf $(VENV) $(WORLD) $(PROVIDERS) .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist \
		tests/api/node_modules tests/auth0_js/node_modules tests/clients/node_modules tests/providers/node_modules \
		tests/pages_world/node_modules tests/sdk_js/node_modules tests/web_js/node_modules
