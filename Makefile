# On a fresh Debian or Ubuntu machine, both install what is missing: `make demo` runs the main job, `make test` every
# check.

SYSTEM_PACKAGES := g++ python3-dev python3-venv pkg-config libopencv-dev libturbojpeg0-dev
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
# The machine's own uv, or one that `make` puts into .uv/.
UV := $(shell command -v uv || echo .uv/bin/uv)
# Without compiled bytecode every Ray worker compiles torch and ray anew.
export UV_COMPILE_BYTECODE := 1

.PHONY: demo test tests lint setup system

# Five minutes on two cores, with a picture at the end; on a Ray cluster of its own unless RAY_ADDRESS names one. The same command again resumes it, or says what it learnt.
demo: data/shapes.beton data/shapes_test.beton
	RAY_ADDRESS=$${RAY_ADDRESS:-local} $(UV) run --locked python jobs/imagenet_resnet50.py --preset demo
	$(UV) run --locked python examples/before_and_after.py demo $^ data/demo.png

data/shapes.beton: shapes := --source.count 2048
data/shapes_test.beton: shapes := --source.count 512 --source.seed 1

data/shapes.beton data/shapes_test.beton: | setup
	$(UV) run --locked python jobs/prepare_data.py --source.kind shapes $(shapes) --encoding.preset small --output $@

# Side by side: mypy takes a minute of one core.
test:
	$(MAKE) --no-print-directory --jobs 2 --keep-going lint tests

tests: setup
	$(UV) run --locked pytest -n 3 --dist loadscope --no-loadscope-reorder --durations 12

lint: setup
	$(UV) run --locked ruff check .
	$(UV) run --locked ruff format --check .
	$(UV) run --locked mypy
	$(UV) run --locked lint-imports

setup: system $(UV)
	$(UV) sync --locked

# FFCV is compiled at its installation and needs OpenCV, libjpeg-turbo and a compiler.
system:
	@dpkg -s $(SYSTEM_PACKAGES) >/dev/null 2>&1 || { \
		$(SUDO) apt-get update && $(SUDO) env DEBIAN_FRONTEND=noninteractive \
			apt-get install -y --no-install-recommends $(SYSTEM_PACKAGES); }

.uv/bin/uv: | system
	python3 -m venv .uv
	.uv/bin/pip install --quiet uv
