/*
 * Vector and x87 state: in the host's registers or parked, and which of it may be used.
 */
#include "engine/bt/vec_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* CPUID leaf 0xd, subleaf 2 and up, ECX: compacted format aligns the component. */
#define BT_CPUID_ALIGN64 BIT(1)
/* CPUID leaf 1, ECX: XSAVE is there and the system has enabled it. */
#define BT_CPUID_OSXSAVE BIT(27)

/* --- The host --- */

static uint64_t
bt_fpu_host_xcr0(void)
{
	struct x86_cpuid_regs leaf;
	uint32_t lo, hi;

	x86_cpuid_host(NULL, 1, 0, &leaf);
	if (!(leaf.ecx & BT_CPUID_OSXSAVE))
		return 0;
	__asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
	return lo | (uint64_t)hi << 32;
}

/* AVX-512 comes whole or not at all, and nothing without AVX. */
uint64_t
bt_fpu_host_mask(void)
{
	uint64_t mask = (bt_fpu_host_xcr0() & BT_VEC_XCR0) | X86_XCR0_X87 | X86_XCR0_SSE;

	if (!(mask & X86_XCR0_AVX) || (mask & X86_XCR0_AVX512) != X86_XCR0_AVX512)
		mask &= ~X86_XCR0_AVX512;
	return mask;
}

/* Where XSAVE puts components; those that the image has no room for are not kept. */
static void
bt_fpu_components(struct bt_fpu *fpu)
{
	struct x86_cpuid_regs leaf;

	for (int i = 2; i < BT_XCOMPS; i++) {
		if (!(fpu->mask & BIT64(i)))
			continue;
		x86_cpuid_host(NULL, 0xd, (uint32_t)i, &leaf);
		assert(leaf.ebx >= BT_XSAVE_EXTENDED && leaf.ebx + leaf.eax <= X86_XSAVE_SIZE);
		fpu->comp[i].offset = leaf.ebx;
		fpu->comp[i].size = leaf.eax;
		fpu->comp[i].align = leaf.ecx & BT_CPUID_ALIGN64;
	}
}

void
bt_fpu_host(const struct bt_fpu *fpu)
{
	const uint32_t mxcsr = BT_MXCSR_RESET;

	__asm__ volatile("fninit\n\tldmxcsr %0" : : "m"(mxcsr));
	/* Some processors make SSE slow while upper halves hold something. */
	if (fpu->has_avx)
		__asm__ volatile("vzeroupper");
}

/* --- Parked and live --- */

static void
bt_fpu_save(struct bt_fpu *fpu)
{
	uint32_t lo = (uint32_t)fpu->mask, hi = (uint32_t)(fpu->mask >> 32);

	if (fpu->xsave_features & BT_XSAVE_HAS_OPT)
		__asm__ volatile("xsaveopt64 %0" : "+m"(fpu->image) : "a"(lo), "d"(hi));
	else if (fpu->has_xsave)
		__asm__ volatile("xsave64 %0" : "+m"(fpu->image) : "a"(lo), "d"(hi));
	else
		__asm__ volatile("fxsave64 %0" : "+m"(fpu->image));
}

static void
bt_fpu_load(const struct bt_fpu *fpu, const uint8_t (*image)[X86_XSAVE_SIZE])
{
	uint32_t lo = (uint32_t)fpu->mask, hi = (uint32_t)(fpu->mask >> 32);

	if (fpu->has_xsave)
		__asm__ volatile("xrstor64 %0" : : "m"(*image), "a"(lo), "d"(hi));
	else
		__asm__ volatile("fxrstor64 %0" : : "m"(*image));
}

/* The host's own pointers mean nothing to the guest. */
void
bt_fpu_pointers_store(struct bt_fpu *fpu)
{
	bt_put(fpu->image + BT_XSAVE_FOP, 2, fpu->fop);
	bt_put(fpu->image + BT_XSAVE_FIP, 8, fpu->fip);
	bt_put(fpu->image + BT_XSAVE_FDP, 8, fpu->fdp);
}

void
bt_fpu_pointers_load(struct bt_fpu *fpu)
{
	fpu->fop = bt_get16(fpu->image + BT_XSAVE_FOP) & 0x7ff;
	fpu->fip = bt_get64(fpu->image + BT_XSAVE_FIP);
	fpu->fdp = bt_get64(fpu->image + BT_XSAVE_FDP);
	fpu->fcs = fpu->fds = 0;
}

void
bt_fpu_park(struct bt_cpu *cpu)
{
	struct bt_fpu *fpu = cpu->fpu;

	if (!cpu->fpu_live)
		return;
	bt_fpu_save(fpu);
	bt_fpu_pointers_store(fpu);
	cpu->fpu_live = 0;
	bt_fpu_host(fpu);
}

void
bt_fpu_live(struct bt_cpu *cpu)
{
	if (cpu->fpu_live)
		return;
	bt_thunk_current(cpu);
	bt_fpu_load(cpu->fpu, &cpu->fpu->image);
	cpu->fpu_live = BT_VEC_LIVE | cpu->fpu->allowed;
}

void
bt_fpu_blank(struct bt_fpu *fpu)
{
	bt_zero(fpu->area, BT_XSAVE_EXTENDED);
	bt_put(fpu->area + BT_XSAVE_FCW, 2, BT_FCW_INIT);
	bt_put(fpu->area + BT_XSAVE_MXCSR, 4, BT_MXCSR_RESET);
	bt_fpu_load(fpu, &fpu->area);
}

/* --- What may run --- */

void
bt_fpu_mode(struct bt_cpu *cpu)
{
	struct bt_fpu *fpu = cpu->fpu;
	const uint64_t avx = X86_XCR0_SSE | X86_XCR0_AVX;
	bool ts = cpu->cr0 & X86_CR0_TS, em = cpu->cr0 & X86_CR0_EM;
	uint8_t allowed = 0;

	/* SDM 3, table 13-1 and 2.5; SDM 2, 2.4.3 */
	if (!ts && !em)
		allowed |= BT_VEC_X87 | BT_VEC_MMX;
	if (!ts || !(cpu->cr0 & X86_CR0_MP))
		allowed |= BT_VEC_FWAIT;
	if (!ts && !em && (cpu->cr4 & X86_CR4_OSFXSR))
		allowed |= BT_VEC_SSE;
	if (!ts && (cpu->cr4 & X86_CR4_OSXSAVE) && (cpu->xcr0 & avx) == avx) {
		allowed |= BT_VEC_AVX;
		if ((cpu->xcr0 & X86_XCR0_AVX512) == X86_XCR0_AVX512)
			allowed |= BT_VEC_AVX512;
	}
	fpu->allowed = allowed;
	if (cpu->fpu_live)
		cpu->fpu_live = BT_VEC_LIVE | allowed;
}

/* Whether an instruction of this kind, which may not run, is undefined rather than not available.
 */
static bool
bt_vec_undefined(const struct bt_cpu *cpu, uint8_t kind)
{
	const uint64_t avx = X86_XCR0_SSE | X86_XCR0_AVX, avx512 = avx | X86_XCR0_AVX512;

	switch (kind) {
	case BT_VEC_MMX: return cpu->cr0 & X86_CR0_EM;
	case BT_VEC_SSE: return (cpu->cr0 & X86_CR0_EM) || !(cpu->cr4 & X86_CR4_OSFXSR);
	case BT_VEC_AVX: return !(cpu->cr4 & X86_CR4_OSXSAVE) || (cpu->xcr0 & avx) != avx;
	case BT_VEC_AVX512: return !(cpu->cr4 & X86_CR4_OSXSAVE) || (cpu->xcr0 & avx512) != avx512;
	default: return false;
	}
}

void
bt_vec_enter(struct bt_cpu *cpu, uint8_t kind)
{
	if (!(cpu->fpu->allowed & kind))
		bt_raise(cpu, bt_vec_undefined(cpu, kind) ? X86_UD : X86_NM);
	bt_fpu_live(cpu);
}

/* --- Images --- */

void
bt_fpu_normalize(const struct bt_fpu *fpu, uint8_t *image, uint64_t which)
{
	uint64_t idle = which & ~bt_get64(image + BT_XSAVE_BV);

	if (idle & X86_XCR0_X87) {
		bt_zero(image, BT_XSAVE_MXCSR);
		bt_zero(image + BT_XSAVE_ST, BT_XSAVE_XMM - BT_XSAVE_ST);
		bt_put(image + BT_XSAVE_FCW, 2, BT_FCW_INIT);
	}
	if (idle & X86_XCR0_SSE)
		bt_zero(image + BT_XSAVE_XMM, 256);
	bt_put(image + BT_XSAVE_MXCSR_MASK, 4, BT_MXCSR_MASK);
	for (int i = 2; i < BT_XCOMPS; i++) {
		if (idle & BIT64(i))
			bt_zero(image + fpu->comp[i].offset, fpu->comp[i].size);
	}
}

void
bt_fpu_get(struct bt_cpu *cpu, uint8_t *image)
{
	bt_fpu_park(cpu);
	bt_copy(image, cpu->fpu->image, X86_XSAVE_SIZE);
	bt_fpu_normalize(cpu->fpu, image, cpu->fpu->mask);
}

int
bt_fpu_set(struct bt_cpu *cpu, const uint8_t *image)
{
	struct bt_fpu *fpu = cpu->fpu;

	if ((bt_get64(image + BT_XSAVE_BV) & ~fpu->mask) != 0 ||
	    (bt_get32(image + BT_XSAVE_MXCSR) & ~BT_MXCSR_MASK) != 0)
		return -EINVAL;
	for (int i = BT_XSAVE_XCOMP_BV; i < BT_XSAVE_EXTENDED; i++) {
		if (image[i] != 0)
			return -EINVAL;
	}
	bt_fpu_park(cpu);
	bt_copy(fpu->image, image, X86_XSAVE_SIZE);
	bt_fpu_normalize(fpu, fpu->image, fpu->mask);
	bt_fpu_pointers_load(fpu);
	bt_fpu_mode(cpu);
	return 0;
}

uint64_t
bt_fpu_inuse(struct bt_cpu *cpu)
{
	uint64_t bv;

	bt_fpu_park(cpu);
	bv = bt_get64(cpu->fpu->image + BT_XSAVE_BV);
	if (bt_get32(cpu->fpu->image + BT_XSAVE_MXCSR) != BT_MXCSR_RESET)
		bv |= X86_XCR0_SSE;
	return bv;
}

void
bt_fpu_reset(struct bt_cpu *cpu, bool init)
{
	struct bt_fpu *fpu = cpu->fpu;

	if (init)
		return; /* INIT keeps it all (SDM 3, table 9-1) */
	bt_fpu_park(cpu);
	bt_zero(fpu->image, sizeof(fpu->image));
	bt_put(fpu->image + BT_XSAVE_FCW, 2, 0x40);
	fpu->image[BT_XSAVE_FTW] = 0xff; /* 5555h: every register holds zero */
	bt_put(fpu->image + BT_XSAVE_MXCSR, 4, BT_MXCSR_RESET);
	bt_put(fpu->image + BT_XSAVE_MXCSR_MASK, 4, BT_MXCSR_MASK);
	bt_put(fpu->image + BT_XSAVE_BV, 8, X86_XCR0_X87 | X86_XCR0_SSE);
	bt_fpu_pointers_load(fpu);
	bt_fpu_mode(cpu);
}

/* --- Life --- */

int
bt_fpu_create(struct bt_cpu *cpu)
{
	struct bt_fpu *fpu = aligned_alloc(64, ALIGN_UP(sizeof(*fpu), 64));
	struct x86_cpuid_regs leaf;

	if (fpu == NULL)
		return -ENOMEM;
	memset(fpu, 0, sizeof(*fpu));
	cpu->fpu = fpu;
	fpu->mask = bt_fpu_host_mask();
	fpu->has_xsave = bt_fpu_host_xcr0() != 0;
	fpu->has_avx = fpu->mask & X86_XCR0_AVX;
	if (fpu->has_xsave) {
		x86_cpuid_host(NULL, 0xd, 1, &leaf);
		fpu->xsave_features = leaf.eax;
		bt_fpu_components(fpu);
	}
	bt_fpu_reset(cpu, false);
	return 0;
}

void
bt_fpu_destroy(struct bt_cpu *cpu)
{
	if (cpu->fpu == NULL)
		return;
	bt_fpu_park(cpu);
	bt_thunk_current(NULL);
	free(cpu->fpu);
	cpu->fpu = NULL;
}

/* --- CPUID --- */

void
bt_vec_features(struct x86_cpuid_mask *mask)
{
	/* SSE3, PCLMULQDQ, SSSE3, FMA, SSE4.1, SSE4.2, AES, AVX, F16C */
	mask->f1_ecx |=
	    BIT(0) | BIT(1) | BIT(9) | BIT(12) | BIT(19) | BIT(20) | BIT(25) | BIT(28) | BIT(29);
	/* MMX, FXSR, SSE, SSE2 */
	mask->f1_edx |= BIT(23) | BIT(24) | BIT(25) | BIT(26);
	/* AVX2, AVX512F, AVX512DQ, AVX512_IFMA, AVX512CD, SHA, AVX512BW, AVX512VL */
	mask->f7_ebx |=
	    BIT(5) | BIT(16) | BIT(17) | BIT(21) | BIT(28) | BIT(29) | BIT(30) | BIT(31);
	/* AVX512_VBMI, AVX512_VBMI2, GFNI, VAES, VPCLMULQDQ, AVX512_VNNI, _BITALG, _VPOPCNTDQ */
	mask->f7_ecx |= BIT(1) | BIT(6) | BIT(8) | BIT(9) | BIT(10) | BIT(11) | BIT(12) | BIT(14);
	/* AVX512_VP2INTERSECT */
	mask->f7_edx |= BIT(8);
	/* AVX-VNNI, AVX512_BF16, AVX-IFMA */
	mask->f7_1_eax |= BIT(4) | BIT(5) | BIT(23);
	/* XSAVEOPT, XSAVEC, XGETBV with ECX = 1, XSAVES */
	mask->fd_1_eax |= BIT(0) | BIT(1) | BIT(2) | BIT(3);
	/* AMD: MMX extensions, MMX, FXSR, FFXSR */
	mask->e1_edx |= BIT(22) | BIT(23) | BIT(24) | BIT(25);
	/* XSAVE and its kin always save the x87 pointers */
	mask->e8_ebx |= BIT(2);
	mask->xcr0 |= BT_VEC_XCR0;
}
