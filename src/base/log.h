/*
 * Messages to the person who runs the VM: always stderr, one line each, "bhyve: who: text".
 *
 * All calls are thread-safe. What a guest can trigger must go through log_guest(), which counts
 * every call and prints at most a few lines per call site, so that a guest cannot fill a disk.
 */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include <stdatomic.h>
#include <stdint.h>

/* An error or a warning about the host or the configuration. who: option, file or device name. */
void log_error(const char *who, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void log_warn(const char *who, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Said once at start or on request; silent with log_quiet(true). */
void log_info(const char *who, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void log_quiet(int quiet);

/* How often one call site of log_guest() was reached. */
struct log_site {
	_Atomic uint64_t count;
};
void log_guest_at(struct log_site *site, const char *who, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* A mistake of the guest's; the first few per call site are printed, the rest only counted. */
#define log_guest(who, ...)                                                                        \
	do {                                                                                       \
		static struct log_site log_site_;                                                  \
		log_guest_at(&log_site_, who, __VA_ARGS__);                                        \
	} while (0)

#endif
