# firstcome: every command there is. LOCAL_PORT=n moves the local AWS, so that two checkouts can run side by side.
# LOCAL_AWS_UNMENDED=1 starts the local AWS without the mends of tools/local_aws.py (README.md).
LOCAL_PORT ?= 4566
USERS ?= 1000
STOCK ?= 300
AUTH ?= false
SEEDS ?= 100000
RUNS ?= 3
MINUTES ?= 60
export LOCAL_PORT AUTH
.DEFAULT_GOAL := help
SHELL := /bin/bash

.PHONY: demo check test up down outputs env watch metrics bench simulate model chaos closing mutants contracts deploy-aws help

demo: up ## One flash sale on this machine: USERS=1000 STOCK=300
	@eval "$$(tools/stack env)" && target/firstcome sale --users $(USERS) --stock $(STOCK)

check: ## The quick loop: format, lints, docs, unit tests
	@tools/check

test: ## Everything CI runs
	@tools/test

up: ## Start the local AWS and deploy the stack; re-deploys what changed
	@tools/stack up

down: ## Stop the local AWS
	@tools/stack down

outputs: ## The stack's outputs, as one JSON object
	@tools/stack outputs

env: ## Lines to eval for the local stack: eval "$$(make -s env)"
	@tools/stack env

watch: ## cargo lambda watch, with the local stack's environment
	@tools/stack watch

metrics: ## What the functions measured, held to the tables: MINUTES=60 CAMPAIGN=id
	@eval "$$(tools/stack env)" && target/firstcome metrics --since-minutes $(MINUTES) $(if $(CAMPAIGN),--campaign $(CAMPAIGN))

bench: ## Side-by-side benchmarks, as tables
	@OPT_LEVEL=3 tools/stack build
	@cargo bench -p firstcome-bench

simulate: ## Issuance in a simulated world at its worst: SEEDS=100000
	@cargo run -q --release -p firstcome-simulator -- --seeds $(SEEDS)

model: ## Every state of the issuance protocol in small sales
	@cargo run -q --release -p firstcome-model

chaos: USERS = 500
chaos: STOCK = 200
chaos: ## Flash sales under faults and kill -9, all exact: RUNS=3 USERS=500 STOCK=200
	@tools/chaos --runs $(RUNS) --users $(USERS) --stock $(STOCK)

closing: ## Campaigns closed in the middle of their rush, while every second write of a shard conflicts: RUNS=3
	@tools/chaos --closing --runs $(RUNS)

mutants: ## The issuance path broken in every small way; a test must notice (an hour)
	@tools/mutants

deploy-aws: ## Build for AWS and deploy there: CONFIG_ENV=default|small GUIDED=yes (docs/first-deploy.md)
	@tools/stack deploy-aws

contracts: ## Writes schemas/ and the OpenAPI document anew from the types
	@. tools/cargo-selection && WRITE_CONTRACTS=1 cargo test -q "$${everything[@]}" --test schemas the_files
	@. tools/cargo-selection && WRITE_CONTRACTS=1 cargo test -q "$${everything[@]}" --bin api the_served_document

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
