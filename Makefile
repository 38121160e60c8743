# `make test` on a fresh Debian or Ubuntu machine installs what is missing and runs every check.

SYSTEM_PACKAGES := g++ python3-dev pkg-config libopencv-dev libturbojpeg0-dev
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
# uv's installer puts it there.
export PATH := $(HOME)/.local/bin:$(PATH)
# Without compiled bytecode every Ray worker compiles torch and ray anew.
export UV_COMPILE_BYTECODE := 1

.PHONY: test lint setup system uv

test: lint
	uv run --locked pytest

lint: setup
	uv run --locked ruff check .
	uv run --locked ruff format --check .
	uv run --locked mypy
	uv run --locked lint-imports

setup: system uv
	uv sync --locked

# FFCV is compiled at its installation and needs OpenCV, libjpeg-turbo and a compiler.
system:
	@if ! dpkg -s $(SYSTEM_PACKAGES) >/dev/null 2>&1; then \
		$(SUDO) apt-get update && $(SUDO) env DEBIAN_FRONTEND=noninteractive \
			apt-get install -y --no-install-recommends $(SYSTEM_PACKAGES); \
	fi

uv:
	@if ! command -v uv >/dev/null; then \
		{ command -v curl >/dev/null || { $(SUDO) apt-get update && $(SUDO) apt-get install -y curl ca-certificates; }; } && \
		curl -LsSf https://astral.sh/uv/install.sh | sh; \
	fi
