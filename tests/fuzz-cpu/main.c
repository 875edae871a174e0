/*
 * fuzz-cpu [-n cases] [-s first] [-i insns] [-c case] [-k]: compares the software CPU with this processor.
 *
 * Every case is made from its number, so a difference is repeated with -c NUMBER. The last line sums up;
 * the exit status is 1 if there was a difference. -k goes on after differences and counts them.
 */
#include "fuzz_cpu.h"

#include "engine/bt/insn.h"

#include <err.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define FUZZ_BATCH 256

struct fuzz {
	struct fuzz_host host;
	struct fuzz_native *native;
	struct fuzz_guest *guest;
	struct fuzz_case *cases;
	struct fuzz_result *native_results;
	struct fuzz_result result;
	uint64_t ran, skipped, differences, by_vector[32];
	uint64_t unsteady; /* cases in which the processor contradicted itself */
	int max_insns;
	bool keep_going;
};

static const char *const gpr_names[] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9",
	"r10", "r11", "r12", "r13", "r14", "r15" };

/* One difference in words, or NULL. */
typedef void fuzz_emit(const char *what, uint64_t native, uint64_t ours);

static void
fuzz_print(const char *what, uint64_t native, uint64_t ours)
{
	printf("    %-10s processor %#18" PRIx64 "  ours %#18" PRIx64 "\n", what, native, ours);
}

static bool
fuzz_diff(fuzz_emit *emit, const char *what, uint64_t native, uint64_t ours)
{
	if (native == ours)
		return false;
	if (emit != NULL)
		emit(what, native, ours);
	return true;
}

/* Compares a stretch of bytes; name and base say what a differing one is called. */
static bool
fuzz_compare_range(fuzz_emit *emit, const char *name, unsigned base, const uint8_t *n,
    const uint8_t *o, unsigned from, unsigned to)
{
	bool diff = false;

	if (memcmp(n + from, o + from, to - from) == 0)
		return false;
	for (unsigned i = from; i < to; i++) {
		char what[32];

		if (n[i] == o[i])
			continue;
		snprintf(what, sizeof(what), "%s%#x", name, base + i);
		diff |= fuzz_diff(emit, what, n[i], o[i]);
	}
	return diff;
}

/*
 * The parts of an XSAVE image that are left out: where the last x87 instruction was (processors differ in
 * when they store that, APM 2, 11.4.4, and the kernel's signal frame is stored by this one), MXCSR_MASK,
 * and the bytes between the SSE registers and the extended components, which the kernel uses.
 */
static bool
fuzz_compare_bytes(fuzz_emit *emit, const struct fuzz_host *h, const struct fuzz_result *n,
    const struct fuzz_result *o)
{
	const struct {
		unsigned from, to;
	} parts[] = { { 0, 6 }, { 24, 28 }, { 32, 416 }, { 576, h->xsave_size } };
	bool diff = false;

	for (size_t i = 0; i < ARRAY_SIZE(parts); i++)
		diff |= fuzz_compare_range(emit, "xsave+", 0, n->xsave, o->xsave, parts[i].from,
		    parts[i].to);
	return diff |
	    fuzz_compare_range(emit, "", FUZZ_DATA, n->data, o->data, 0, sizeof(n->data));
}

static bool
fuzz_compare(fuzz_emit *emit, const struct fuzz_host *h, const struct fuzz_case *c,
    const struct fuzz_result *n, const struct fuzz_result *o)
{
	uint32_t error = n->error;
	bool diff = false;

	diff |= fuzz_diff(emit, "vector", (uint64_t)n->vector, (uint64_t)o->vector);
	if (n->vector == X86_PF) {
		/* Linux says "present" of every kernel address, so as not to tell which are. */
		if ((int64_t)n->cr2 < 0)
			error = (error & ~X86_PF_P) | (o->error & X86_PF_P);
		if (!c->large_operand)
			diff |= fuzz_diff(emit, "cr2", n->cr2, o->cr2);
	}
	if (fuzz_diff(NULL, "", (uint64_t)n->vector, (uint64_t)o->vector) == false)
		diff |= fuzz_diff(emit, "error", error, o->error);
	diff |= fuzz_diff(emit, "rip", n->rip, o->rip);
	diff |= fuzz_diff(emit, "rflags", n->rflags, o->rflags);
	for (int i = 0; i < X86_GPR_COUNT; i++)
		diff |= fuzz_diff(emit, gpr_names[i], n->gpr[i], o->gpr[i]);
	return diff | fuzz_compare_bytes(emit, h, n, o);
}

static void
fuzz_show(const struct fuzz_case *c)
{
	printf("  case %" PRIu64 ", %d-bit, at %#x\n", c->number, c->mode * 8, c->entry);
	for (int i = 0; i < c->insns; i++) {
		struct bt_insn in;

		if (bt_decode(c->code + c->start[i], 15, c->mode, &in) != 0)
			continue;
		printf("    %#x ", c->entry + c->start[i]);
		for (int b = c->start[i]; b < c->start[i + 1]; b++)
			printf(" %02x", c->code[b]);
		printf("  %s\n", bt_id_name(in.id));
	}
	for (int i = 0; i < X86_GPR_COUNT; i++)
		printf("    %-3s %#18" PRIx64 "%s", gpr_names[i], c->gpr[i], i % 4 == 3 ? "\n" : "");
	printf("    rflags %#" PRIx64 "\n", c->rflags);
}

/* Finds the shortest beginning of the case that still differs, and prints it. */
static void
fuzz_report(struct fuzz *f, uint64_t number)
{
	int insns = 1;

	for (;; insns++) {
		fuzz_case_make(&f->cases[0], &f->host, number, f->max_insns);
		if (insns >= f->cases[0].insns)
			break;
		fuzz_case_cut(&f->cases[0], insns);
		fuzz_native_start(f->native, 1);
		fuzz_native_wait(f->native);
		fuzz_guest_run(f->guest, &f->cases[0], &f->result);
		if (fuzz_compare(NULL, &f->host, &f->cases[0], &f->native_results[0], &f->result))
			break;
	}
	fuzz_native_start(f->native, 1);
	fuzz_native_wait(f->native);
	fuzz_guest_run(f->guest, &f->cases[0], &f->result);
	fuzz_show(&f->cases[0]);
	printf("  ended with vector %d\n", f->native_results[0].vector);
	fuzz_compare(fuzz_print, &f->host, &f->cases[0], &f->native_results[0], &f->result);
	fflush(stdout);
}

/*
 * Runs a case that differed once more. If the processor itself now comes to another result than before, it was
 * disturbed (a kernel below that emulates paging may do so), and there is nothing to compare with: false.
 */
static bool
fuzz_is_steady(struct fuzz *f, uint64_t number, const struct fuzz_result *before)
{
	fuzz_case_make(&f->cases[0], &f->host, number, f->max_insns);
	fuzz_native_start(f->native, 1);
	fuzz_native_wait(f->native);
	if (!fuzz_compare(NULL, &f->host, &f->cases[0], before, &f->native_results[0]))
		return true;
	printf("  case %" PRIu64 ": the processor's own results differ\n", number);
	fuzz_compare(fuzz_print, &f->host, &f->cases[0], before, &f->native_results[0]);
	f->unsteady++;
	return false;
}

/*
 * Whether ours stopped at memory that is there for the processor all the same: something else of this
 * process, such as the address sanitizer's shadow, which begins below 2 GiB.
 */
static bool
fuzz_is_foreign(const struct fuzz_result *o)
{
	unsigned char resident;

	return o->vector == X86_PF &&
	       mincore((void *)(uintptr_t)(o->cr2 & ~0xfffull), 0x1000, &resident) == 0;
}

static void
fuzz_batch(struct fuzz *f, uint64_t first, int count)
{
	static struct fuzz_result bad_results[FUZZ_BATCH];
	uint64_t bad[FUZZ_BATCH];
	int nbad = 0;

	for (int i = 0; i < count; i++)
		fuzz_case_make(&f->cases[i], &f->host, first + (uint64_t)i, f->max_insns);
	fuzz_native_start(f->native, count);
	fuzz_native_wait(f->native);
	for (int i = 0; i < count; i++) {
		const struct fuzz_result *n = &f->native_results[i];

		/* POPF can set AC too. */
		if (n->skipped || (f->cases[i].odd_alignment && (n->rflags & X86_FL_AC))) {
			f->skipped++;
			continue;
		}
		fuzz_guest_run(f->guest, &f->cases[i], &f->result);
		if (!fuzz_compare(NULL, &f->host, &f->cases[i], n, &f->result)) {
			f->ran++;
			f->by_vector[n->vector & 31]++;
		} else if (fuzz_is_foreign(&f->result)) {
			f->skipped++;
		} else {
			f->ran++;
			bad_results[nbad] = *n;
			bad[nbad++] = first + (uint64_t)i;
		}
	}
	for (int i = 0; i < nbad; i++) {
		if (!fuzz_is_steady(f, bad[i], &bad_results[i]))
			continue;
		f->differences++;
		fuzz_report(f, bad[i]);
	}
}

int
main(int argc, char **argv)
{
	static struct fuzz f = { .max_insns = FUZZ_MAX_INSNS };
	uint64_t cases = 100000, first = (uint64_t)time(NULL) << 24;
	struct timespec t0, t1;
	double seconds;
	int opt;

	while ((opt = getopt(argc, argv, "n:s:i:c:k")) != -1) {
		switch (opt) {
		case 'n': cases = strtoull(optarg, NULL, 0); break;
		case 's': first = strtoull(optarg, NULL, 0); break;
		case 'i': f.max_insns = MAX(1, MIN(FUZZ_MAX_INSNS, atoi(optarg))); break;
		case 'c':
			first = strtoull(optarg, NULL, 0);
			cases = 1;
			break;
		case 'k': f.keep_going = true; break;
		default: errx(2, "usage: fuzz-cpu [-n cases] [-s first] [-i insns] [-c case] [-k]");
		}
	}
	fuzz_host_init(&f.host);
	if (!f.host.has_32bit)
		printf("skipped: 32-bit code, for which this host has no code segment\n");
	f.native = fuzz_native_create(&f.host, FUZZ_BATCH, &f.cases, &f.native_results);
	f.guest = fuzz_guest_create(&f.host);
	clock_gettime(CLOCK_MONOTONIC, &t0);
	for (uint64_t done = 0; done < cases && (f.differences == 0 || f.keep_going);) {
		int count = (int)MIN((uint64_t)FUZZ_BATCH, cases - done);

		fuzz_batch(&f, first + done, count);
		done += (uint64_t)count;
	}
	clock_gettime(CLOCK_MONOTONIC, &t1);
	seconds = (double)(t1.tv_sec - t0.tv_sec) + (double)(t1.tv_nsec - t0.tv_nsec) / 1e9;
	for (int v = 0; v < 32; v++) {
		if (f.by_vector[v] != 0)
			printf("  vector %2d ended %" PRIu64 " cases\n", v, f.by_vector[v]);
	}
	if (f.unsteady != 0)
		printf("skipped: %" PRIu64 " cases in which the processor contradicted itself\n", f.unsteady);
	printf("%" PRIu64 " cases from %" PRIu64 ", %" PRIu64 " skipped, %" PRIu64
	       " differences, %.2f million a minute\n",
	    f.ran, first, f.skipped, f.differences, (double)f.ran / seconds * 60 / 1e6);
	fuzz_native_destroy(f.native);
	fuzz_guest_destroy(f.guest);
	return f.differences != 0;
}
