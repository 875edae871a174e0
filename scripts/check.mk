# Tests. `make check T=lapic` runs those whose name contains a word; FUZZ_RUNS and FUZZ_CPU_CASES say how
# long the fuzzers run.

DEPS_CHECK := libcmocka-dev clang llvm libclang-rt-14-dev python3 python3-pytest python3-pexpect acpica-tools \
	binutils mandoc nbdkit qemu-utils e2fsprogs

FUZZ_SRCS := $(sort $(wildcard tests/fuzz/fuzz_*.c))
FUZZERS := $(FUZZ_SRCS:tests/fuzz/%.c=$O/fuzz/bin/%)

check: deps-build deps-check
	$Q$(MAKE) --no-print-directory -j$(JOBS) $O/bhyve units $O/tests/fuzz-cpu/fuzz-cpu guests
	$Q$(MAKE) --no-print-directory -j$(JOBS) fuzzers
	$Q$(MAKE) --no-print-directory guest-cloud guest-amd64 guest-i386
	$Qscripts/check $O $(T)

# The same under address and undefined-behaviour sanitizers.
check-asan: deps-build deps-check
	$Q$(MAKE) --no-print-directory -j$(JOBS) O=$O/asan SAN=1 $O/asan/bhyve units $O/asan/tests/fuzz-cpu/fuzz-cpu guests
	$Qln -sfn ../guest $O/asan/guest
	$Q$(MAKE) --no-print-directory guest-cloud guest-amd64 guest-i386
	$Qscripts/check $O/asan $(T)

deps-check:
	$Qscripts/install-deps $(DEPS_CHECK)

# libFuzzer programs: everything built by clang with coverage and sanitizers, in a tree of its own.
fuzzers:
	$Q$(if $(FUZZ_SRCS),$(MAKE) --no-print-directory O=$O/fuzz CC=clang FUZZ=1 $(FUZZERS))

ifdef FUZZ
ALL_CFLAGS += -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined
$O/bin/%: tests/fuzz/%.c $(LIB)
	$(call say,FUZZ,$@)
	$Qmkdir -p $(@D)
	$Q$(CC) $(ALL_CFLAGS) -fsanitize=fuzzer -o $@ $< $(LIB) $(LIBS)
endif

# Small guests of our own: each of tests/guests/*.S, linked with what they share in tests/guests/lib.
# Assembled as 64-bit code, which has relocations for every mode; multiboot wants a 32-bit file.
GUESTS := $(patsubst tests/guests/%.S,$O/tests/guests/%.elf,$(sort $(wildcard tests/guests/*.S)))
GUEST_LIB := $(patsubst %.S,$O/%.o,$(sort $(wildcard tests/guests/lib/*.S)))
GUEST_HEADERS := $(wildcard tests/guests/*.h tests/guests/lib/*.h)
guests: $(GUESTS)
$O/tests/guests/%.o: tests/guests/%.S $(GUEST_HEADERS)
	$(call say,AS,$@)
	$Qmkdir -p $(@D)
	$Qgcc -Wa,--fatal-warnings -Itests/guests -c -o $@ $<
$O/tests/guests/%.elf: $O/tests/guests/%.o $(GUEST_LIB) tests/guests/guest.ld
	$(call say,GUEST,$@)
	$Qld -z max-page-size=4096 --no-warn-rwx-segments -T tests/guests/guest.ld -o $@.64 $(filter %.o,$^)
	$Qobjcopy -O elf32-i386 $@.64 $@
.PRECIOUS: $O/tests/guests/%.o

.PHONY: check check-asan deps-check fuzzers guests

# The differential CPU fuzzer: tests/fuzz-cpu/.
FUZZ_CPU_OBJS := $(patsubst %.c,$O/%.o,$(wildcard tests/fuzz-cpu/*.c))
$O/tests/fuzz-cpu/fuzz-cpu: $(FUZZ_CPU_OBJS) $(LIB)
	$(call say,LD,$@)
	$Q$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS)
fuzz-cpu: deps-build
	$Q$(MAKE) --no-print-directory $O/tests/fuzz-cpu/fuzz-cpu
	$O/tests/fuzz-cpu/fuzz-cpu -n $(or $(CASES),10000000)
.PHONY: fuzz-cpu

# What the software CPU does beside QEMU's TCG: prints the table of docs/performance.md.
bench: deps-build
	$Qscripts/install-deps $(DEPS_GUEST) qemu-system-x86 python3 python3-pexpect binutils
	$Q$(MAKE) --no-print-directory $O/bhyve guests guest-cloud guest-amd64
	$Q/usr/bin/python3 scripts/bench $O/bhyve $(GUEST)
.PHONY: bench
