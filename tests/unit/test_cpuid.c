/*
 * The CPUID model: what of two recorded hosts remains under a mask, and whether the topology that a
 * guest derives from it, in the ways Intel's and AMD's manuals describe, is the VM's.
 */
#include "x86/cpuid.h"
#include "x86/state.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

struct leaf {
	uint32_t leaf, subleaf;
	struct x86_cpuid_regs r;
};

struct host {
	const struct leaf *leaf;
	size_t count;
};

/* A server processor of Intel's: AVX-512, MPX gone, caches of 48 KiB, 1.25 MiB and 36 MiB. */
static const struct leaf intel_leaves[] = {
	{ 0x0, 0, { 0x1b, 0x756e6547, 0x6c65746e, 0x49656e69 } },
	{ 0x1, 0, { 0x000606a6, 0x17400800, 0x7ffefbff, 0xbfebfbff } },
	{ 0x2, 0, { 0x00feff01, 0x000000f0, 0, 0 } },
	{ 0x4, 0, { 0xfc004121, 0x02c0003f, 0x3f, 0 } },
	{ 0x4, 1, { 0xfc004122, 0x01c0003f, 0x3f, 0 } },
	{ 0x4, 2, { 0xfc004143, 0x04c0003f, 0x3ff, 0 } },
	{ 0x4, 3, { 0xfc1fc163, 0x02c0003f, 0xbfff, 0x4 } },
	{ 0x5, 0, { 0x40, 0x40, 0x3, 0x2020 } },
	{ 0x6, 0, { 0x77, 0x2, 0x9, 0 } },
	{ 0x7, 0, { 0x2, 0xf3bfbfef, 0x40417f5e, 0xfc184410 } },
	{ 0x7, 1, { 0x30, 0, 0, 0 } },
	{ 0xa, 0, { 0x08300805, 0, 0xf, 0x8604 } },
	{ 0xb, 0, { 0x1, 0x2, 0x100, 0x17 } },
	{ 0xb, 1, { 0x6, 0x20, 0x201, 0x17 } },
	{ 0xd, 0, { 0x2e7, 0xa88, 0xa88, 0 } },
	{ 0xd, 1, { 0xf, 0xa08, 0x100, 0 } },
	{ 0xd, 2, { 0x100, 0x240, 0, 0 } },
	{ 0xd, 5, { 0x40, 0x440, 0, 0 } },
	{ 0xd, 6, { 0x200, 0x480, 0, 0 } },
	{ 0xd, 7, { 0x400, 0x680, 0, 0 } },
	{ 0xd, 9, { 0x8, 0xa80, 0, 0 } },
	{ 0x15, 0, { 0x2, 0xa8, 0x17d7840, 0 } },
	{ 0x1b, 0, { 0x11, 0x22, 0x33, 0x44 } },
	{ 0x80000000, 0, { 0x80000008, 0, 0, 0 } },
	{ 0x80000001, 0, { 0, 0, 0x121, 0x2c100800 } },
	{ 0x80000002, 0, { 0x65746e49, 0x2952286c, 0x6f655820, 0x2952286e } },
	{ 0x80000003, 0, { 0x6c6f4720, 0x36362064, 0x20593833, 0x20555043 } },
	{ 0x80000004, 0, { 0x2e322040, 0x48473030, 0x7a, 0 } },
	{ 0x80000006, 0, { 0, 0, 0x05007040, 0 } },
	{ 0x80000007, 0, { 0, 0, 0, 0x100 } },
	{ 0x80000008, 0, { 0x392e, 0x200, 0, 0 } },
};

/* A server processor of AMD's: no AVX-512, caches of 32 KiB, 512 KiB and 32 MiB. */
static const struct leaf amd_leaves[] = {
	{ 0x0, 0, { 0x10, 0x68747541, 0x444d4163, 0x69746e65 } },
	{ 0x1, 0, { 0x00a00f11, 0x17800800, 0x7efa320b, 0x178bfbff } },
	{ 0x5, 0, { 0x40, 0x40, 0x3, 0x11 } },
	{ 0x6, 0, { 0x4, 0, 0x1, 0 } },
	{ 0x7, 0, { 0x0, 0x219c97a9, 0x0040069c, 0x00000010 } },
	{ 0xb, 0, { 0x1, 0x2, 0x100, 0x17 } },
	{ 0xb, 1, { 0x7, 0x80, 0x201, 0x17 } },
	{ 0xd, 0, { 0x207, 0x988, 0x988, 0 } },
	{ 0xd, 1, { 0xf, 0x358, 0x1800, 0 } },
	{ 0xd, 2, { 0x100, 0x240, 0, 0 } },
	{ 0xd, 9, { 0x8, 0x980, 0, 0 } },
	{ 0x80000000, 0, { 0x80000023, 0x68747541, 0x444d4163, 0x69746e65 } },
	{ 0x80000001, 0, { 0x00a00f11, 0x40000000, 0x75c237ff, 0x2fd3fbff } },
	{ 0x80000002, 0, { 0x20444d41, 0x43595045, 0x31373720, 0x34362033 } },
	{ 0x80000003, 0, { 0x726f432d, 0x72502065, 0x7365636f, 0x20726f73 } },
	{ 0x80000004, 0, { 0x20202020, 0x20202020, 0x20202020, 0x00202020 } },
	{ 0x80000005, 0, { 0xff40ff40, 0xff40ff40, 0x20080140, 0x20080140 } },
	{ 0x80000006, 0, { 0x48002200, 0x68004200, 0x02006140, 0x08009140 } },
	{ 0x80000007, 0, { 0, 0x3b, 0, 0x6799 } },
	{ 0x80000008, 0, { 0x3030, 0x111ef657, 0x707f, 0x00010007 } },
	{ 0x8000001d, 0, { 0x4121, 0x01c0003f, 0x3f, 0 } },
	{ 0x8000001d, 1, { 0x4122, 0x01c0003f, 0x3f, 0 } },
	{ 0x8000001d, 2, { 0x4143, 0x01c0003f, 0x3ff, 2 } },
	{ 0x8000001d, 3, { 0x3c163, 0x03c0003f, 0x7fff, 1 } },
	{ 0x8000001e, 0, { 0x17, 0x10b, 0x0, 0 } },
	{ 0x80000021, 0, { 0x2d, 0, 0, 0 } },
};

static const struct host intel_host = { intel_leaves, ARRAY_SIZE(intel_leaves) };
static const struct host amd_host = { amd_leaves, ARRAY_SIZE(amd_leaves) };

/* Every bit: shows what the model itself holds back. */
static const struct x86_cpuid_mask mask_all = {
	.f1_ecx = ~0u, .f1_edx = ~0u, .f7_ebx = ~0u, .f7_ecx = ~0u, .f7_edx = ~0u, .f7_1_eax = ~0u,
	.fd_1_eax = ~0u, .e1_ecx = ~0u, .e1_edx = ~0u, .e8_ebx = ~0u, .e21_eax = ~0u, .xcr0 = ~0ull,
};
/* What a plain x86-64 has. */
static const struct x86_cpuid_mask mask_plain = {
	.f1_ecx = BIT(0) | BIT(13) | BIT(26), .f1_edx = 0x0783fbff,
	.e1_ecx = BIT(0) | BIT(22), .e1_edx = BIT(11) | BIT(20) | BIT(29),
	.xcr0 = X86_XCR0_X87 | X86_XCR0_SSE,
	.set_f1_ecx = BIT(21) | BIT(24), .set_e21_eax = BIT(6),
};

static const struct x86_topology uniprocessor = { 1, 1, 1 };

static void
host_read(void *arg, uint32_t leaf, uint32_t subleaf, struct x86_cpuid_regs *out)
{
	const struct host *h = arg;

	*out = (struct x86_cpuid_regs){ 0 };
	for (size_t i = 0; i < h->count; i++) {
		if (h->leaf[i].leaf == leaf && h->leaf[i].subleaf == subleaf)
			*out = h->leaf[i].r;
	}
	/* Beyond the end, Intel's answer with the last basic leaf. */
	if (h == &intel_host && ((leaf > 0x1b && leaf < 0x80000000) || leaf > 0x80000008))
		*out = (struct x86_cpuid_regs){ 0x11, 0x22, 0x33, 0x44 };
}

static struct x86_cpuid *
make(const struct host *h, const struct x86_cpuid_mask *mask, const struct x86_topology *topo,
    uint32_t tsc_khz)
{
	struct x86_cpuid *m = x86_cpuid_create(host_read, (void *)h, mask, topo, tsc_khz);

	assert_non_null(m);
	return m;
}

static struct x86_cpuid_regs
query_as(const struct x86_cpuid *m, uint32_t apic_id, uint32_t leaf, uint32_t subleaf)
{
	const struct x86_cpuid_ctx ctx = { .apic_id = apic_id,
		.xcr0 = X86_XCR0_X87,
		.apic_base = X86_APIC_DEFAULT_BASE | X86_APIC_BASE_ENABLE };
	struct x86_cpuid_regs r;

	memset(&r, 0xee, sizeof(r));
	x86_cpuid_query(m, &ctx, leaf, subleaf, &r);
	return r;
}

static struct x86_cpuid_regs
query(const struct x86_cpuid *m, uint32_t leaf, uint32_t subleaf)
{
	return query_as(m, 0, leaf, subleaf);
}

static void
expect(const struct x86_cpuid *m, uint32_t leaf, uint32_t subleaf, uint32_t eax, uint32_t ebx,
    uint32_t ecx, uint32_t edx)
{
	struct x86_cpuid_regs r = query(m, leaf, subleaf);

	assert_int_equal(r.eax, eax);
	assert_int_equal(r.ebx, ebx);
	assert_int_equal(r.ecx, ecx);
	assert_int_equal(r.edx, edx);
}

/* --- Features --- */

static void
test_vendor_and_limits(void **state)
{
	struct x86_cpuid *m;

	m = make(&intel_host, &mask_plain, &uniprocessor, 0);
	assert_true(x86_cpuid_is_intel(m));
	expect(m, 0, 0, 0xd, 0x756e6547, 0x6c65746e, 0x49656e69);
	expect(m, 0x80000000, 0, 0x80000008, 0, 0, 0);
	assert_int_equal(x86_cpuid_phys_bits(m), 46);
	x86_cpuid_destroy(m);

	m = make(&amd_host, &mask_plain, &uniprocessor, 2000000);
	assert_false(x86_cpuid_is_intel(m));
	expect(m, 0, 0, 0xd, 0x68747541, 0x444d4163, 0x69746e65);
	expect(m, 0x80000000, 0, 0x80000021, 0x68747541, 0x444d4163, 0x69746e65);
	assert_int_equal(x86_cpuid_phys_bits(m), 48);
	x86_cpuid_destroy(m);
	x86_cpuid_destroy(NULL);
}

static void
test_mask(void **state)
{
	const struct host *const hosts[] = { &intel_host, &amd_host };

	for (size_t i = 0; i < ARRAY_SIZE(hosts); i++) {
		struct x86_cpuid *m = make(hosts[i], &mask_plain, &uniprocessor, 0);
		struct x86_cpuid_regs r = query(m, 1, 0);

		/* Host and mask, what the engine brings, and the hypervisor bit. */
		assert_int_equal(r.ecx,
		    BIT(0) | BIT(13) | BIT(26) | BIT(21) | BIT(24) | BIT(31));
		assert_int_equal(r.edx, 0x0783fbff);
		assert_int_equal(r.ebx & 0xff00ffff, 0x0800);
		expect(m, 7, 0, 0, 0, 0, 0);
		expect(m, 7, 1, 0, 0, 0, 0);
		expect(m, 5, 0, 0, 0, 0, 0);
		expect(m, 6, 0, BIT(2), 0, 0, 0);
		expect(m, 0xa, 0, 0, 0, 0, 0);
		r = query(m, 0x80000001, 0);
		assert_int_equal(r.edx, BIT(11) | BIT(20) | BIT(29));
		assert_int_equal(r.ecx, hosts[i] == &amd_host ? BIT(0) | BIT(22) : BIT(0));
		r = query(m, 0x80000007, 0);
		assert_int_equal(r.edx, BIT(8));
		r = query(m, 0x80000021, 0);
		if (hosts[i] == &amd_host)
			assert_int_equal(r.eax, BIT(6));
		r = query(m, 0x80000003, 0);
		assert_int_equal(r.eax, hosts[i] == &amd_host ? 0x726f432d : 0x6c6f4720);
		x86_cpuid_destroy(m);
	}
}

static void
test_all_allowed(void **state)
{
	struct x86_cpuid *m = make(&intel_host, &mask_all, &uniprocessor, 0);
	struct x86_cpuid_regs r = query(m, 1, 0);

	/* OSXSAVE is CR4's, HTT the topology's. */
	assert_int_equal(r.ecx, (0x7ffefbff & ~BIT(27)) | BIT(31));
	assert_int_equal(r.edx, 0xbfebfbff & ~BIT(28));
	expect(m, 7, 0, 1, 0xf3bfbfef, 0x40417f5e & ~BIT(4), 0xfc184410);
	expect(m, 7, 1, 0x30, 0, 0, 0);
	expect(m, 7, 2, 0, 0, 0, 0);
	/* 57 linear bits only with LA57: this host has it. */
	r = query(m, 0x80000008, 0);
	assert_int_equal(r.eax, 0x392e);
	x86_cpuid_destroy(m);
}

static void
test_context_bits(void **state)
{
	struct x86_cpuid *m = make(&amd_host, &mask_all, &uniprocessor, 0);
	struct x86_cpuid_ctx ctx = { .cr4 = X86_CR4_OSXSAVE | X86_CR4_PKE, .xcr0 = 7 };
	struct x86_cpuid_regs r;

	x86_cpuid_query(m, &ctx, 1, 0, &r);
	assert_true(r.ecx & BIT(27));
	assert_false(r.edx & BIT(9)); /* APIC switched off */
	x86_cpuid_query(m, &ctx, 0x80000001, 0, &r);
	assert_false(r.edx & BIT(9));
	x86_cpuid_query(m, &ctx, 7, 0, &r);
	assert_true(r.ecx & BIT(4));
	ctx.apic_base = X86_APIC_BASE_ENABLE;
	ctx.cr4 = 0;
	ctx.apic_id = 0x42;
	x86_cpuid_query(m, &ctx, 1, 0, &r);
	assert_false(r.ecx & BIT(27));
	assert_true(r.edx & BIT(9));
	assert_int_equal(r.ebx >> 24, 0x42);
	x86_cpuid_query(m, &ctx, 0x80000001, 0, &r);
	assert_true(r.edx & BIT(9));
	x86_cpuid_query(m, &ctx, 7, 0, &r);
	assert_false(r.ecx & BIT(4));
	x86_cpuid_destroy(m);

	/* Without the feature, CR4 says nothing. */
	m = make(&amd_host, &(struct x86_cpuid_mask){ 0 }, &uniprocessor, 0);
	ctx.cr4 = ~0ull;
	x86_cpuid_query(m, &ctx, 1, 0, &r);
	assert_int_equal(r.ecx, BIT(31));
	x86_cpuid_query(m, &ctx, 7, 0, &r);
	assert_int_equal(r.ecx, 0);
	x86_cpuid_destroy(m);
}

/* --- XSAVE --- */

static void
test_xsave(void **state)
{
	struct x86_cpuid_mask mask = mask_all;
	struct x86_cpuid_ctx ctx = { .xcr0 = 7 };
	struct x86_cpuid_regs r;
	uint32_t offset, size;
	struct x86_cpuid *m;

	m = make(&intel_host, &mask_all, &uniprocessor, 0);
	assert_int_equal(x86_cpuid_xcr0(m), 0x2e7);
	expect(m, 0xd, 0, 0x2e7, 576, 0xa88, 0);
	x86_cpuid_query(m, &ctx, 0xd, 0, &r);
	assert_int_equal(r.ebx, 0x340);
	ctx.xcr0 = 0xe7;
	x86_cpuid_query(m, &ctx, 0xd, 0, &r);
	assert_int_equal(r.ebx, 0xa80);
	/* Compacted, the gap left by MPX goes. */
	x86_cpuid_query(m, &ctx, 0xd, 1, &r);
	assert_int_equal(r.eax, 0xf);
	assert_int_equal(r.ebx, 576 + 0x100 + 0x40 + 0x200 + 0x400);
	assert_int_equal(r.ecx, 0); /* no supervisor components */
	expect(m, 0xd, 2, 0x100, 0x240, 0, 0);
	expect(m, 0xd, 3, 0, 0, 0, 0);
	expect(m, 0xd, 9, 8, 0xa80, 0, 0);
	expect(m, 0xd, 63, 0, 0, 0, 0);
	expect(m, 0xd, 0xffffffff, 0, 0, 0, 0);
	x86_cpuid_xcomp(m, 7, &offset, &size);
	assert_int_equal(offset, 0x680);
	assert_int_equal(size, 0x400);
	x86_cpuid_xcomp(m, 3, &offset, &size);
	assert_int_equal(offset | size, 0);
	x86_cpuid_xcomp(m, 99, &offset, &size);
	assert_int_equal(offset | size, 0);
	x86_cpuid_destroy(m);

	/* AVX-512 needs its three components; what needs AVX-512 goes with them. */
	mask.xcr0 = 0x67;
	m = make(&intel_host, &mask, &uniprocessor, 0);
	assert_int_equal(x86_cpuid_xcr0(m), 7);
	r = query(m, 7, 0);
	assert_int_equal(r.ebx & 0xdc230000, 0);
	assert_int_equal(r.ecx & 0x5842, 0);
	assert_true(r.ebx & BIT(5));
	expect(m, 7, 1, BIT(4), 0, 0, 0);
	expect(m, 0xd, 0, 7, 576, 0x340, 0);
	x86_cpuid_destroy(m);

	/* Without AVX state, no AVX, FMA, F16C, AVX2, VAES, VPCLMULQDQ. */
	mask.xcr0 = 3;
	m = make(&intel_host, &mask, &uniprocessor, 0);
	assert_int_equal(query(m, 1, 0).ecx & (BIT(12) | BIT(28) | BIT(29)), 0);
	assert_false(query(m, 7, 0).ebx & BIT(5));
	assert_int_equal(query(m, 7, 0).ecx & (BIT(9) | BIT(10)), 0);
	assert_int_equal(query(m, 7, 0).eax, 0);
	expect(m, 0xd, 0, 3, 576, 576, 0);
	x86_cpuid_destroy(m);

	/* Without XSAVE, nothing of it. */
	mask = mask_all;
	mask.f1_ecx &= ~BIT(26);
	m = make(&intel_host, &mask, &uniprocessor, 0);
	assert_int_equal(x86_cpuid_xcr0(m), 0);
	assert_false(query(m, 1, 0).ecx & BIT(28));
	expect(m, 0xd, 0, 0, 0, 0, 0);
	expect(m, 0xd, 1, 0, 0, 0, 0);
	x86_cpuid_destroy(m);
}

static void
test_xsave_too_big(void **state)
{
	struct leaf leaves[ARRAY_SIZE(intel_leaves)];
	const struct host host = { leaves, ARRAY_SIZE(leaves) };
	struct x86_cpuid *m;

	memcpy(leaves, intel_leaves, sizeof(leaves));
	for (size_t i = 0; i < ARRAY_SIZE(leaves); i++) {
		/* One component beyond struct x86_state's room, one whose size wraps around. */
		if (leaves[i].leaf == 0xd && leaves[i].subleaf == 9)
			leaves[i].r.ebx = X86_XSAVE_SIZE - 4;
		if (leaves[i].leaf == 0xd && leaves[i].subleaf == 7)
			leaves[i].r.eax = 0xfffffff0;
	}
	m = make(&host, &mask_all, &uniprocessor, 0);
	assert_int_equal(x86_cpuid_xcr0(m), 7);
	x86_cpuid_destroy(m);
}

/* --- Beyond the ends, hypervisor leaves, frequencies --- */

static void
test_out_of_range(void **state)
{
	struct x86_cpuid *m = make(&intel_host, &mask_plain, &uniprocessor, 2800000);
	struct x86_cpuid_regs last = query(m, 0x16, 0);

	assert_int_equal(last.eax, 2800);
	expect(m, 0x17, 0, last.eax, last.ebx, last.ecx, last.edx);
	expect(m, 0x3fffffff, 0, last.eax, last.ebx, last.ecx, last.edx);
	expect(m, 0x80000009, 0, last.eax, last.ebx, last.ecx, last.edx);
	expect(m, 0xffffffff, 7, last.eax, last.ebx, last.ecx, last.edx);
	x86_cpuid_destroy(m);

	m = make(&amd_host, &mask_plain, &uniprocessor, 2800000);
	expect(m, 0xe, 0, 0, 0, 0, 0);
	expect(m, 0x15, 0, 0, 0, 0, 0);
	expect(m, 0x80000022, 0, 0, 0, 0, 0);
	expect(m, 0xffffffff, 0, 0, 0, 0, 0);
	x86_cpuid_destroy(m);
}

static void
test_hypervisor(void **state)
{
	struct x86_cpuid *m = make(&intel_host, &mask_plain, &uniprocessor, 2793437);
	struct x86_cpuid_regs r = query(m, 0x40000000, 0);
	struct x86_cpuid_mask mask = mask_plain;
	uint64_t tsc_hz;

	assert_int_equal(r.eax, 0x40000010);
	assert_memory_equal(&r.ebx, "bhyve bhyve ", 12);
	expect(m, 0x40000010, 0, 2793437, X86_APIC_TIMER_HZ / 1000, 0, 0);
	expect(m, 0x40000001, 0, 0, 0, 0, 0);
	expect(m, 0x40000100, 0, 0, 0, 0, 0);
	/* The TSC as a guest computes it from leaf 0x15. */
	r = query(m, 0x15, 0);
	tsc_hz = (uint64_t)r.ecx * r.ebx / r.eax;
	assert_int_equal(tsc_hz, 2793437000);
	assert_int_equal(r.ecx, X86_APIC_TIMER_HZ);
	x86_cpuid_destroy(m);

	m = make(&intel_host, &mask_plain, &uniprocessor, 0);
	assert_int_equal(query(m, 0x40000000, 0).eax, 0x40000000);
	expect(m, 0x40000010, 0, 0, 0, 0, 0);
	x86_cpuid_destroy(m);

	/* KVM's range beside ours, where an engine brings something of it and the TSC's frequency is
	 * known. */
	mask.kvm_features = 0x1000008;
	m = make(&intel_host, &mask, &uniprocessor, 2793437);
	assert_int_equal(query(m, 0x40000000, 0).eax, 0x40000010);
	r = query(m, 0x40000100, 0);
	assert_int_equal(r.eax, 0x40000101);
	assert_memory_equal(&r.ebx, "KVMKVMKVM\0\0\0", 12);
	expect(m, 0x40000101, 0, 0x1000008, 0, 0, 0);
	expect(m, 0x40000200, 0, 0, 0, 0, 0);
	x86_cpuid_destroy(m);
	m = make(&intel_host, &mask, &uniprocessor, 0);
	expect(m, 0x40000100, 0, 0, 0, 0, 0);
	expect(m, 0x40000101, 0, 0, 0, 0, 0);
	x86_cpuid_destroy(m);
}

/* --- Topology --- */

static void
test_apic_ids(void **state)
{
	static const struct {
		struct x86_topology topo;
		uint32_t cpu, apic_id;
	} cases[] = {
		{ { 1, 1, 1 }, 0, 0 },
		{ { 4, 1, 1 }, 3, 3 },
		{ { 2, 2, 2 }, 7, 7 },
		{ { 2, 2, 2 }, 5, 5 },
		{ { 2, 3, 1 }, 3, 4 },
		{ { 2, 3, 2 }, 6, 8 },
		{ { 2, 3, 2 }, 11, 13 },
		{ { 1, 1, 3 }, 2, 2 },
		{ { 2, 1, 3 }, 3, 4 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		assert_int_equal(x86_topology_apic_id(&cases[i].topo, cases[i].cpu),
		    cases[i].apic_id);
}

/* The bits of an ID that number n things. */
static unsigned
order(uint32_t n)
{
	unsigned bits = 0;

	while (1u << bits < n)
		bits++;
	return bits;
}

/* Derives every vCPU's place from its CPUID by each method that its vendor documents. */
static void
check_topology(const struct host *h, const struct x86_topology *t)
{
	struct x86_cpuid *m = make(h, &mask_all, t, 0);
	uint32_t per_socket = t->cores * t->threads;

	for (uint32_t cpu = 0; cpu < t->sockets * per_socket; cpu++) {
		uint32_t thread = cpu % t->threads, core = cpu / t->threads % t->cores;
		uint32_t socket = cpu / per_socket, id = x86_topology_apic_id(t, cpu);
		unsigned smt_shift, package_shift;
		struct x86_cpuid_regs r = query_as(m, id, 1, 0), b;

		assert_int_equal(r.ebx >> 24, id);
		assert_int_equal(!!(r.edx & BIT(28)), per_socket > 1);

		/* Leaf 0xb, both vendors. */
		b = query_as(m, id, 0xb, 0);
		assert_int_equal(b.edx, id);
		assert_int_equal(b.ebx, t->threads);
		assert_int_equal(b.ecx, 0x100);
		smt_shift = b.eax;
		b = query_as(m, id, 0xb, 1);
		assert_int_equal(b.edx, id);
		assert_int_equal(b.ebx, per_socket);
		assert_int_equal(b.ecx, 0x201);
		package_shift = b.eax;
		assert_int_equal(id & ((1u << smt_shift) - 1), thread);
		assert_int_equal((id & ((1u << package_shift) - 1)) >> smt_shift, core);
		assert_int_equal(id >> package_shift, socket);
		b = query_as(m, id, 0xb, 2);
		assert_int_equal(b.eax | b.ebx, 0);
		assert_int_equal(b.ecx, 2);
		assert_int_equal(b.edx, id);

		if (x86_cpuid_is_intel(m)) {
			/* Leaf 1 and leaf 4 (SDM 3, 8.9.3): shifts from counts of IDs. */
			if (per_socket > 1)
				assert_int_equal(order(r.ebx >> 16 & 0xff), package_shift);
			b = query_as(m, id, 4, 0);
			/* A field of six bits; larger packages need leaf 0xb. */
			assert_int_equal(
			    order((b.eax >> 26) + 1), MIN(package_shift - smt_shift, 6));
			continue;
		}
		/* APM 3, E.4.7 (leaf 0x80000008) and E.4.17 (leaf 0x8000001e). */
		assert_int_equal(r.ebx >> 16 & 0xff, per_socket);
		b = query_as(m, id, 0x80000008, 0);
		assert_int_equal((b.ecx & 0xff) + 1, per_socket);
		assert_int_equal(b.ecx >> 12 & 0xf, package_shift);
		b = query_as(m, id, 0x8000001e, 0);
		assert_int_equal(b.eax, id);
		assert_int_equal(b.ebx & 0xff, core);
		assert_int_equal((b.ebx >> 8 & 0xff) + 1, t->threads);
		assert_int_equal(b.ecx, socket);
	}

	/* Caches: those of a core are shared by its threads, the last level by the package. */
	for (uint32_t i = 0; i < 5; i++) {
		struct x86_cpuid_regs c = query(m, x86_cpuid_is_intel(m) ? 4 : 0x8000001d, i);
		uint32_t level = c.eax >> 5 & 7, shared = (c.eax >> 14 & 0xfff) + 1;

		assert_int_equal((c.eax & 0x1f) != 0, i < 4);
		if (i < 4)
			assert_int_equal(order(shared),
			    order(t->threads) + (level == 3 ? order(t->cores) : 0));
	}
	x86_cpuid_destroy(m);
}

static void
test_topology(void **state)
{
	static const struct x86_topology topos[] = { { 1, 1, 1 }, { 4, 1, 1 }, { 2, 2, 2 },
		{ 1, 3, 2 }, { 2, 5, 3 }, { 1, 64, 2 }, { 1, 65, 2 },
		{ 1, 1, 2 } };

	for (size_t i = 0; i < ARRAY_SIZE(topos); i++) {
		check_topology(&intel_host, &topos[i]);
		check_topology(&amd_host, &topos[i]);
	}
}

static void
test_caches(void **state)
{
	struct leaf leaves[ARRAY_SIZE(amd_leaves)];
	const struct host host = { leaves, ARRAY_SIZE(leaves) };
	struct x86_cpuid *m;

	m = make(&intel_host, &mask_plain, &uniprocessor, 0);
	expect(m, 2, 0, 0x00feff01, 0xf0, 0, 0);
	expect(m, 4, 3, 0x163, 0x02c0003f, 0xbfff, 4);
	expect(m, 4, 4, 0, 0, 0, 0);
	expect(m, 4, 1000, 0, 0, 0, 0);
	expect(m, 0x80000006, 0, 0, 0, 0x05007040, 0);
	x86_cpuid_destroy(m);

	/* A host without leaf 0x8000001d still has the older ones. */
	memcpy(leaves, amd_leaves, sizeof(leaves));
	for (size_t i = 0; i < ARRAY_SIZE(leaves); i++) {
		if (leaves[i].leaf == 0x8000001d)
			leaves[i].r = (struct x86_cpuid_regs){ 0 };
	}
	m = make(&host, &mask_plain, &uniprocessor, 0);
	expect(m, 4, 0, 0, 0, 0, 0);
	expect(m, 0x8000001d, 0, 0x121, 0x01c0003f, 0x3f, 0);
	expect(m, 0x8000001d, 1, 0x122, 0x01c0003f, 0x3f, 0);
	expect(m, 0x8000001d, 2, 0x143, 0x01c0003f, 0x3ff, 0);
	expect(m, 0x8000001d, 3, 0x163, 0x03c0003f, 0x3ffff, 0); /* 256 MiB, 16 ways */
	expect(m, 0x8000001d, 4, 0, 0, 0, 0);
	x86_cpuid_destroy(m);
}

/* The host this runs on, whatever it is: the model holds together. */
static void
test_this_host(void **state)
{
	struct x86_cpuid *m = x86_cpuid_create(x86_cpuid_host, NULL, &mask_all, &uniprocessor, 1);
	uint64_t xcr0 = x86_cpuid_xcr0(m);
	uint32_t offset, size, end = 576;

	assert_non_null(m);
	for (int i = 2; i < 32; i++) {
		x86_cpuid_xcomp(m, i, &offset, &size);
		assert_int_equal(size != 0, (xcr0 >> i & 1) != 0);
		end = MAX(end, offset + size);
	}
	assert_true(end <= X86_XSAVE_SIZE);
	if (xcr0 != 0)
		assert_true(query(m, 0xd, 0).ecx == end || !(xcr0 & X86_XCR0_AVX512));
	assert_true(query(m, 1, 0).edx & BIT(25)); /* SSE */
	x86_cpuid_destroy(m);
}

/* --- Processor state (x86/state.c) --- */

static void
test_reset_state(void **state)
{
	static struct x86_state s;

	memset(&s, 0xff, sizeof(s));
	x86_state_reset(&s, true);
	assert_int_equal(s.rip, 0xfff0);
	assert_int_equal(s.rflags, 2);
	assert_int_equal(s.cr0, 0x60000010);
	assert_int_equal(s.seg[X86_CS].selector, 0xf000);
	assert_int_equal(s.seg[X86_CS].base, 0xffff0000);
	assert_int_equal(s.seg[X86_CS].attr, 0x9b);
	assert_int_equal(s.seg[X86_SS].attr, 0x93);
	assert_int_equal(s.seg[X86_SS].limit, 0xffff);
	assert_int_equal(s.tr.attr, 0x8b);
	assert_int_equal(s.ldtr.attr, 0x82);
	assert_int_equal(s.dr6, 0xffff0ff0);
	assert_int_equal(s.dr7, 0x400);
	assert_int_equal(s.xcr0, 1);
	assert_int_equal(s.apic_base, 0xfee00900);
	assert_int_equal(s.activity, X86_RUNNING);
	assert_int_equal(s.xsave[0] | s.xsave[1] << 8, 0x40);
	assert_int_equal(s.xsave[24] | s.xsave[25] << 8, 0x1f80);
	x86_state_reset(&s, false);
	assert_int_equal(s.apic_base, 0xfee00800);
	assert_int_equal(s.activity, X86_WAIT_SIPI);
}

static void
test_init_state(void **state)
{
	static struct x86_state s, before;

	x86_state_reset(&s, true);
	s.cr0 = X86_CR0_PE | X86_CR0_PG | X86_CR0_NW | X86_CR0_ET;
	s.cr3 = 0x1000;
	s.cr4 = X86_CR4_PAE;
	s.efer = X86_EFER_LME | X86_EFER_LMA;
	s.gpr[X86_RAX] = 5;
	s.xcr0 = 7;
	s.tsc_aux = 9;
	s.pat = 1;
	s.lstar = 2;
	s.kernel_gs_base = 3;
	s.mtrr_def_type = 0xc06;
	s.xsave[200] = 0x77;
	s.nmi_pending = s.nmi_blocked = s.intr_shadow = 1;
	before = s;
	x86_state_init(&s, false);
	assert_int_equal(s.cr0, X86_CR0_NW | X86_CR0_ET);
	assert_int_equal(s.cr3 | s.cr4 | s.efer | s.gpr[X86_RAX], 0);
	assert_int_equal(s.rip, 0xfff0);
	assert_int_equal(s.nmi_pending | s.nmi_blocked | s.intr_shadow, 0);
	assert_int_equal(s.activity, X86_WAIT_SIPI);
	/* What survives INIT. */
	assert_int_equal(s.xcr0, 7);
	assert_int_equal(s.tsc_aux, 9);
	assert_int_equal(s.pat, 1);
	assert_int_equal(s.lstar, 2);
	assert_int_equal(s.kernel_gs_base, 3);
	assert_int_equal(s.mtrr_def_type, 0xc06);
	assert_int_equal(s.apic_base, before.apic_base);
	assert_memory_equal(s.xsave, before.xsave, sizeof(s.xsave));

	x86_state_sipi(&s, 0x9a);
	assert_int_equal(s.activity, X86_RUNNING);
	assert_int_equal(s.seg[X86_CS].selector, 0x9a00);
	assert_int_equal(s.seg[X86_CS].base, 0x9a000);
	assert_int_equal(s.rip, 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_vendor_and_limits),
		cmocka_unit_test(test_mask),
		cmocka_unit_test(test_all_allowed),
		cmocka_unit_test(test_context_bits),
		cmocka_unit_test(test_xsave),
		cmocka_unit_test(test_xsave_too_big),
		cmocka_unit_test(test_out_of_range),
		cmocka_unit_test(test_hypervisor),
		cmocka_unit_test(test_apic_ids),
		cmocka_unit_test(test_topology),
		cmocka_unit_test(test_caches),
		cmocka_unit_test(test_this_host),
		cmocka_unit_test(test_reset_state),
		cmocka_unit_test(test_init_state),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
