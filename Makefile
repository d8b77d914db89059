# What `make test` does is what decides; .ci/run calls it.

GO       ?= go
FUZZTIME ?= 30s
FUZZPKGS ?= ./...

.PHONY: build demo test check test-long bench fuzz fuzz-brief deps clean

build:
	$(GO) build -o mailxmppd ./cmd/mailxmppd

demo:
	$(GO) run ./cmd/mailxmppd demo

# The packages that start servers and child processes share the machine with
# the rest: the time limit is for all of them on two slow cores.
test: deps check fuzz-brief
	$(GO) test -race -count=1 -timeout 14m ./...

# Both builds, as the stop points of the kill tests exist in one only.
check:
	@out=$$(gofmt -l .); test -z "$$out" || { echo "gofmt wants to change:"; echo "$$out"; exit 1; }
	$(GO) vet ./...
	$(GO) vet -tags faults ./...
	$(GO) build ./...
	$(GO) build -tags faults ./...

test-long: deps check
	MAILXMPPD_LONG=1 $(GO) test -race -count=1 -timeout 3h ./...

bench: deps
	$(GO) test -run '^$$' -bench . -benchtime 3s ./...
	$(GO) run ./lab/bench pair --json
	$(GO) run ./lab/bench leg --json
	$(GO) run ./lab/bench smtp --json
	$(GO) run ./lab/bench queue --json
	$(GO) run ./lab/bench trust --json

# Each fuzz target in turn; go takes one at a time.
fuzz:
	@set -e; for pkg in $$($(GO) list $(FUZZPKGS)); do \
		for target in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
			echo "$$pkg $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$pkg; \
		done; \
	done

# What peers can send is fuzzed for a moment in every run: by count, since a
# time limit that strikes within an execution counts as a failure.
fuzz-brief:
	@$(MAKE) --no-print-directory fuzz FUZZTIME=2000x FUZZPKGS="./xmpp/..."

deps:
	@scripts/deps
	@scripts/corpus
	@scripts/exim
	@scripts/vectors

clean:
	rm -rf mailxmppd .cache
