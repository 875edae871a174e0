# Libraries that bhyve is built without where they are absent (HAVE_LIBURING= HAVE_LIBNBD= HAVE_LIBSLIRP=:
# though they are there): src/block/, src/netif/.

have = $(shell printf '\043include <%s>\n' $1 | $(CC) -E -o /dev/null - 2>/dev/null && echo 1)

ifeq ($(origin HAVE_LIBURING),undefined)
HAVE_LIBURING := $(call have,liburing.h)
endif
ifeq ($(origin HAVE_LIBNBD),undefined)
HAVE_LIBNBD := $(call have,libnbd.h)
endif
ifeq ($(origin HAVE_LIBSLIRP),undefined)
HAVE_LIBSLIRP := $(call have,slirp/libslirp.h)
endif

ALL_CFLAGS += $(if $(HAVE_LIBURING),-DHAVE_LIBURING) $(if $(HAVE_LIBNBD),-DHAVE_LIBNBD) \
	$(if $(HAVE_LIBSLIRP),-DHAVE_LIBSLIRP)
LIBS += $(if $(HAVE_LIBURING),-luring) \
	$(if $(HAVE_LIBSLIRP),-lslirp)
