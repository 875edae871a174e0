# bhyve for Linux. Everything is built under build/; `make help` lists the targets.
#
#   V=1            show the commands
#   CC=clang       another compiler (gcc 12 and clang 14 are tested)
#   O=DIR          build there instead of build/
#   SAN=1          address and undefined-behaviour sanitizers
#   PREFIX DESTDIR where `make install` puts things

PREFIX ?= /usr/local
DESTDIR ?=
O ?= build
CC := $(if $(filter default,$(origin CC)),gcc,$(CC))

WARN := -Wall -Wextra -Wshadow -Wimplicit-fallthrough -Wstrict-prototypes -Wmissing-prototypes \
	-Wpointer-arith -Wvla -Wno-unused-parameter -Werror
CFLAGS ?= -O2 -g
ALL_CFLAGS := -std=gnu17 $(CFLAGS) $(WARN) -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -Isrc -pthread \
	-fno-strict-aliasing -fvisibility=hidden -MMD -MP
ALL_LDFLAGS := -pthread -Wl,--as-needed $(LDFLAGS)
ifdef SAN
ALL_CFLAGS += -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
ALL_LDFLAGS += -fsanitize=address,undefined
endif

# The software CPU keeps the guest's vector and x87 registers in the host's own while it runs, so
# its code must not touch them, nor call what does (see src/engine/bt/bt.h).
# No loop of its own may become a memcpy() either; each compiler has its own word for that.
BT_CFLAGS := -mgeneral-regs-only -mno-red-zone -fno-stack-protector \
	$(if $(findstring clang,$(CC)),-fno-builtin,-fno-tree-loop-distribute-patterns)
# Before a call of what it has found never to return gcc calls the address sanitizer's runtime, which
# does use them: it is not to look for such functions, nor to make any.
ifdef SAN
BT_CFLAGS += $(if $(findstring clang,$(CC)),,-fno-ipa-pure-const -fno-partial-inlining)
endif

SRCS := $(sort $(wildcard src/*/*.c src/*/*/*.c))
OBJS := $(SRCS:%.c=$O/%.o)
MAIN := $O/src/bhyve/main.o
LIB := $O/libbhyve.a
LIBS := $(shell cat src/libs 2>/dev/null)

UNIT_SRCS := $(sort $(wildcard tests/unit/test_*.c))
UNITS := $(UNIT_SRCS:%.c=$O/%)

Q := $(if $(V),,@)
say = $(if $(V),,@printf '  %-7s %s\n' $(1) $(2))

all: $O/bhyve

help:
	@sed -n 's/^#   \?//p' Makefile | head -8
	@echo 'targets: all run check check-asan bench fuzz-cpu install uninstall clean'

$O/bhyve: $(MAIN) $(LIB)
	$(call say,LD,$@)
	$Q$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS)

$(LIB): $(filter-out $(MAIN),$(OBJS))
	$(call say,AR,$@)
	$Qrm -f $@ && ar rcs $@ $^

$O/src/engine/bt/%.o: ALL_CFLAGS += $(BT_CFLAGS)

$O/%.o: %.c $O/flags
	$(call say,CC,$<)
	$Qmkdir -p $(@D)
	$Q$(CC) $(ALL_CFLAGS) -c -o $@ $<

# Rebuild everything when the compiler or its flags change.
$O/flags: FORCE
	$Qmkdir -p $O
	$Qecho '$(CC) $(ALL_CFLAGS) $(BT_CFLAGS)' | cmp -s - $@ || echo '$(CC) $(ALL_CFLAGS) $(BT_CFLAGS)' >$@
FORCE:

# Unit tests: one cmocka program per file.
$O/tests/unit/%: tests/unit/%.c $(LIB)
	$(call say,TEST,$@)
	$Qmkdir -p $(@D)
	$Q$(CC) $(ALL_CFLAGS) -Itests/unit $(ALL_LDFLAGS) -o $@ $< $(LIB) $(LIBS) -lcmocka

units: $(UNITS)

install: $O/bhyve
	install -d $(DESTDIR)$(PREFIX)/sbin $(DESTDIR)$(PREFIX)/share/man/man8 $(DESTDIR)$(PREFIX)/share/man/man5
	install -s -m755 $O/bhyve $(DESTDIR)$(PREFIX)/sbin/bhyve
	install -m644 man/bhyve.8 $(DESTDIR)$(PREFIX)/share/man/man8/bhyve.8
	install -m644 man/bhyve_config.5 $(DESTDIR)$(PREFIX)/share/man/man5/bhyve_config.5

uninstall:
	rm -f $(DESTDIR)$(PREFIX)/sbin/bhyve $(DESTDIR)$(PREFIX)/share/man/man8/bhyve.8 \
		$(DESTDIR)$(PREFIX)/share/man/man5/bhyve_config.5

clean:
	rm -rf $O

include $(wildcard scripts/*.mk)
-include $(shell find $O/src $O/tests -name "*.d" -type f 2>/dev/null)

.PHONY: all help units install uninstall clean FORCE
