# The one door to the project: `make help`. Each target first installs the Debian packages that it needs.

.PHONY: help demo test matrix soak soak-net soak-nested bench install lint format fuzz docs-check clean packages
.DEFAULT_GOAL := help

PREFIX ?= /usr/local
FUZZ_SECONDS ?= 600
KILLS ?= 200
NET_KILLS ?= 50

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

demo: packages ## Two Linux guests, their NICs and a disk moved between accelerator and software under traffic
	scripts/build release
	scripts/demo

test: packages ## Everything that CI checks
	scripts/test

matrix: packages ## DPDK's virtio-user in every combination of features, ring size and queues; prints a table
	scripts/build release
	scripts/testpmd-matrix --require
	scripts/own-driver-matrix

soak: packages soak-net soak-nested ## 200 SIGKILLs and 200 live upgrades of the daemon under guests' disks, and the next two
	scripts/build release
	CAUSEWAY_KILLS=$(KILLS) CAUSEWAY_UPGRADES=$(KILLS) scripts/integration test_crash test_upgrade

soak-net: packages ## 50 SIGKILLs of the daemon under a TCP stream between two guests
	scripts/build release
	CAUSEWAY_KILLS=$(NET_KILLS) scripts/integration test_crash_net

soak-nested: packages ## A guest inside a guest rings the doorbell page of a function behind VFIO
	scripts/build release
	scripts/integration soak_nested_doorbell

bench: packages ## Measure against DPDK, memory copies and an accelerator alone; prints the figures
	scripts/build release
	scripts/bench

install: packages ## Build, and install under PREFIX (/usr/local)
	scripts/build release
	cmake --install build/release --prefix $(PREFIX)

lint: packages ## Formatting, clang-tidy, self-contained headers, shellcheck
	scripts/lint

format: packages ## Format the C++ sources
	scripts/sources | xargs -0 clang-format-19 -i

fuzz: packages ## Run each fuzzer for FUZZ_SECONDS (600)
	scripts/build fuzz
	scripts/fuzz-smoke $(FUZZ_SECONDS)

docs-check: packages ## Check that the links between the documents lead somewhere
	scripts/docs-check

clean: ## Remove what was built; the cache of VM parts stays
	rm -rf build

packages:
	@scripts/install-packages
