/*
 * Messages to the person who runs the VM.
 *
 * A message is put together in one buffer and leaves in one write(), so that lines of different
 * threads do not mix. Names and texts may come from a guest or a file: control characters in them
 * are replaced, so that nobody can play tricks on the terminal.
 */
#include "base/log.h"
#include "base/bits.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#define LOG_LINE_MAX 1024
#define LOG_GUEST_LINES 5 /* printed per call site of log_guest() */

/* The one writable variable at file scope: messages belong to the process, not to a VM. */
static _Atomic int log_is_quiet;

/* A terminal that a guest's console put into raw mode needs the carriage return spelt out. */
static const char *
log_newline(void)
{
	struct termios mode;

	if (tcgetattr(STDERR_FILENO, &mode) == 0 && !(mode.c_oflag & OPOST))
		return "\r\n";
	return "\n";
}

static void
log_line(const char *who, const char *suffix, const char *fmt, va_list ap)
{
	char line[LOG_LINE_MAX];
	size_t room = sizeof(line) - strlen(suffix) - strlen("\r\n");
	int saved_errno = errno;
	size_t len;
	int n;

	n = snprintf(line, room, who != NULL ? "bhyve: %s: " : "bhyve: ", who);
	len = MIN((size_t)MAX(n, 0), room - 1);
	errno = saved_errno; /* for %m */
	n = vsnprintf(line + len, room - len, fmt, ap);
	len = MIN(len + (size_t)MAX(n, 0), room - 1);
	for (size_t i = 0; i < len; i++) {
		if ((unsigned char)line[i] < ' ' || line[i] == 0x7f)
			line[i] = '?';
	}
	len += (size_t)snprintf(line + len, sizeof(line) - len, "%s%s", suffix, log_newline());

	for (size_t off = 0; off < len;) {
		ssize_t done = write(STDERR_FILENO, line + off, len - off);

		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0)
			break;
		off += (size_t)done;
	}
	errno = saved_errno;
}

void
log_error(const char *who, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	log_line(who, "", fmt, ap);
	va_end(ap);
}

void
log_warn(const char *who, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	log_line(who, "", fmt, ap);
	va_end(ap);
}

void
log_info(const char *who, const char *fmt, ...)
{
	va_list ap;

	if (atomic_load_explicit(&log_is_quiet, memory_order_relaxed))
		return;
	va_start(ap, fmt);
	log_line(who, "", fmt, ap);
	va_end(ap);
}

void
log_quiet(int quiet)
{
	atomic_store_explicit(&log_is_quiet, quiet, memory_order_relaxed);
}

void
log_guest_at(struct log_site *site, const char *who, const char *fmt, ...)
{
	uint64_t before = atomic_fetch_add_explicit(&site->count, 1, memory_order_relaxed);
	va_list ap;

	if (before >= LOG_GUEST_LINES)
		return;
	va_start(ap, fmt);
	log_line(who, before == LOG_GUEST_LINES - 1 ? " (no more of these)" : "", fmt, ap);
	va_end(ap);
}
