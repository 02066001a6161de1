# The commands of the README. `make` alone lists them.
#
# Everything that is missing is installed when that is allowed (root, or sudo without a password); otherwise the exact
# command is printed. No PostgreSQL cluster of the machine is created, started or touched.

CARGO ?= cargo
# Options of `shard-admin demo`, e.g. make demo OPTIONS='--shards 2 --port 7000'
OPTIONS ?=
# Options of the benchmark, e.g. make bench BENCH_OPTIONS=--quick
BENCH_OPTIONS ?=
# Options of the fuzzer, e.g. make fuzz FUZZ_OPTIONS='--seconds 600 sql copy'
FUZZ_OPTIONS ?=

.PHONY: help demo build test soak test-drivers oracle fuzz bench check needs

help:
	@echo 'make demo          four PostgreSQL shards with replicas, the proxy and an auction house; Ctrl-C ends it'
	@echo 'make build         both programs, optimised, in target/release'
	@echo 'make test          all tests but those below'
	@echo 'make soak          random statements on PostgreSQL and through the proxy, compared, for GAVEL_MINUTES (30)'
	@echo 'make test-drivers  drivers and frameworks of several languages, installed from their registries'
	@echo 'make oracle        what is read from SQL, held against PostgreSQL'\''s own parser over its regression tests'
	@echo 'make fuzz          every decoder of foreign bytes, a minute each'
	@echo 'make bench         what a transaction costs, directly and through proxies'
	@echo 'make check         what must hold for every commit (.ci/run)'

needs:
	@.ci/install-needs

build: needs
	$(CARGO) build --release --locked --bin gavel --bin shard-admin

# exec: Ctrl-C is for the demo, which cleans up, and its status is ours.
demo: build
	@exec target/release/shard-admin demo $(OPTIONS)

# The programs first: end-to-end tests run them.
test: needs
	$(CARGO) build --workspace --bins --locked
	$(CARGO) test --workspace --locked --no-fail-fast

# Prints its seeds, and ends with an error when an answer was wrong.
soak: needs
	$(CARGO) build --workspace --bins --locked
	$(CARGO) test -p tests --test differential --locked -- --ignored --nocapture long_run

test-drivers: needs
	$(CARGO) build --workspace --bins --locked
	tests/drivers/run

# The compiler and libclang are the only needs; no server runs.
oracle:
	tests/oracle/run

fuzz:
	fuzz/run $(FUZZ_OPTIONS)

bench: needs
	tests/bench/run $(BENCH_OPTIONS)

check:
	.ci/run
