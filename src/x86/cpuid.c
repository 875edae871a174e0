/*
 * The CPUID model.
 *
 * The host's answers are read once; every leaf that the model offers is filtered or made here, all
 * others are zero. What depends on the asking vCPU is put in at the query.
 *
 * Leaves and fields: SDM 2, CPUID (3-194 on), and APM 3, appendix E.
 */
#include "x86/cpuid.h"
#include "x86/state.h"

#include <stdlib.h>
#include <string.h>

#define X86_CPUID_BASIC_MAX_AMD 0xdu
#define X86_CPUID_BASIC_MAX_INTEL 0x16u
#define X86_CPUID_EXT 0x80000000u
#define X86_CPUID_EXT_MAX_INTEL 0x80000008u
#define X86_CPUID_EXT_MAX_AMD 0x80000021u
#define X86_CPUID_HYPERVISOR 0x40000000u
#define X86_CPUID_HYPERVISOR_TIMING 0x40000010u
/* A second range, found by its signature as guests search for it in steps of 100h. */
#define X86_CPUID_KVM 0x40000100u
#define X86_CPUID_KVM_FEATURES 0x40000101u
#define X86_CPUID_HYPERVISOR_END 0x4fffffffu

/* Leaf 1 */
#define X86_CPUID_1_ECX_FMA BIT(12)
#define X86_CPUID_1_ECX_XSAVE BIT(26)
#define X86_CPUID_1_ECX_OSXSAVE BIT(27)
#define X86_CPUID_1_ECX_AVX BIT(28)
#define X86_CPUID_1_ECX_F16C BIT(29)
#define X86_CPUID_1_ECX_HYPERVISOR BIT(31)
#define X86_CPUID_1_EDX_APIC BIT(9)
#define X86_CPUID_1_EDX_HTT BIT(28)
/* Leaf 6 */
#define X86_CPUID_6_EAX_ARAT BIT(2)
/* Leaf 7.0 */
#define X86_CPUID_7_EBX_AVX2 BIT(5)
#define X86_CPUID_7_EBX_AVX512                                                                     \
	(BIT(16) | BIT(17) | BIT(21) | BIT(26) | BIT(27) | BIT(28) | BIT(30) | BIT(31))
#define X86_CPUID_7_ECX_PKU BIT(3)
#define X86_CPUID_7_ECX_OSPKE BIT(4)
#define X86_CPUID_7_ECX_VAES BIT(9)
#define X86_CPUID_7_ECX_VPCLMULQDQ BIT(10)
#define X86_CPUID_7_ECX_AVX512 (BIT(1) | BIT(6) | BIT(11) | BIT(12) | BIT(14))
#define X86_CPUID_7_ECX_LA57 BIT(16)
#define X86_CPUID_7_EDX_AVX512 (BIT(2) | BIT(3) | BIT(8) | BIT(23))
/* Leaf 7.1 */
#define X86_CPUID_7_1_EAX_AVX (BIT(4) | BIT(23)) /* AVX-VNNI, AVX-IFMA */
#define X86_CPUID_7_1_EAX_AVX512 BIT(5)
/* Leaf 0xd.1 */
#define X86_CPUID_D_1_EAX_COMPACT (BIT(1) | BIT(3)) /* XSAVEC, XSAVES */
#define X86_CPUID_D_N_ECX_ALIGN BIT(1)
/* Leaf 0x80000001 */
#define X86_CPUID_E1_ECX_CMP_LEGACY BIT(1)
#define X86_CPUID_E1_ECX_XOP BIT(11)
#define X86_CPUID_E1_ECX_FMA4 BIT(16)
/* Leaf 0x80000007 */
#define X86_CPUID_E7_EDX_INVARIANT_TSC BIT(8)

/* XSAVE's legacy region and header (SDM 1, 13.4) */
#define X86_XSAVE_EXTENDED 576u
#define X86_XCOMPS 32

/* Leaf 4 and 0x8000001d, EAX */
#define X86_CACHE_TYPE(eax) ((eax)&0x1f) /* 0: no more caches */
#define X86_CACHE_LEVEL(eax) BITS(eax, 5, 3)
#define X86_CACHES 8

struct x86_cpuid {
	struct x86_topology topo;
	unsigned thread_bits, core_bits;
	bool intel;
	uint32_t basic_max, ext_max, hypervisor_max;
	struct x86_cpuid_regs basic[X86_CPUID_BASIC_MAX_INTEL + 1];
	struct x86_cpuid_regs ext[X86_CPUID_EXT_MAX_AMD - X86_CPUID_EXT + 1];
	struct x86_cpuid_regs leaf_7_1, hypervisor, timing, kvm, kvm_features;
	struct x86_cpuid_regs cache[X86_CACHES]; /* leaf 4 or 0x8000001d; unused ones are zero */
	uint64_t xcr0;
	struct {
		uint32_t offset, size, flags;
	} xcomp[X86_XCOMPS];
	uint32_t xsave_features; /* leaf 0xd.1 EAX */
};

/* What building needs. */
struct x86_cpuid_build {
	struct x86_cpuid *m;
	const struct x86_cpuid_mask *mask;
	x86_cpuid_read_fn *read;
	void *arg;
	uint32_t host_basic_max, host_ext_max;
	uint32_t tsc_khz;
};

/* --- Topology --- */

static unsigned
x86_topology_bits(uint32_t count)
{
	return count > 1 ? 32 - (unsigned)__builtin_clz(count - 1) : 0;
}

uint32_t
x86_topology_apic_id(const struct x86_topology *topo, uint32_t cpu)
{
	unsigned thread_bits = x86_topology_bits(topo->threads);
	unsigned core_bits = x86_topology_bits(topo->cores);
	uint32_t thread = cpu % topo->threads;
	uint32_t core = cpu / topo->threads % topo->cores;
	uint32_t socket = cpu / topo->threads / topo->cores;

	return socket << (thread_bits + core_bits) | core << thread_bits | thread;
}

/* --- The host --- */

void
x86_cpuid_host(void *arg, uint32_t leaf, uint32_t subleaf, struct x86_cpuid_regs *out)
{
	__asm__ volatile("cpuid"
			 : "=a"(out->eax), "=b"(out->ebx), "=c"(out->ecx), "=d"(out->edx)
			 : "a"(leaf), "c"(subleaf));
}

/* The host's answer; zero beyond its highest leaf, whatever it says there. */
static struct x86_cpuid_regs
x86_cpuid_read(const struct x86_cpuid_build *b, uint32_t leaf, uint32_t subleaf)
{
	struct x86_cpuid_regs r = { 0 };

	if (leaf <= (leaf >= X86_CPUID_EXT ? b->host_ext_max : b->host_basic_max))
		b->read(b->arg, leaf, subleaf, &r);
	return r;
}

static bool
x86_cpuid_vendor_is(const struct x86_cpuid_regs *leaf0, const char *vendor)
{
	const uint32_t text[3] = { leaf0->ebx, leaf0->edx, leaf0->ecx };

	return memcmp(text, vendor, sizeof(text)) == 0;
}

/* --- Building: one function per group of leaves --- */

/* Highest leaves and the vendor. */
static void
x86_cpuid_build_vendor(struct x86_cpuid_build *b)
{
	struct x86_cpuid *m = b->m;
	struct x86_cpuid_regs leaf0, ext0;

	b->read(b->arg, 0, 0, &leaf0);
	b->read(b->arg, X86_CPUID_EXT, 0, &ext0);
	b->host_basic_max = leaf0.eax;
	/* A processor without extended leaves answers with those of the highest basic one. */
	b->host_ext_max = ext0.eax >> 16 == X86_CPUID_EXT >> 16 ? ext0.eax : 0;
	m->intel = !x86_cpuid_vendor_is(&leaf0, "AuthenticAMD") &&
	    !x86_cpuid_vendor_is(&leaf0, "HygonGenuine");

	m->basic_max = X86_CPUID_BASIC_MAX_AMD;
	if (m->intel && b->tsc_khz != 0)
		m->basic_max = X86_CPUID_BASIC_MAX_INTEL;
	m->ext_max = m->intel ? X86_CPUID_EXT_MAX_INTEL : X86_CPUID_EXT_MAX_AMD;
	m->basic[0] = leaf0;
	m->basic[0].eax = m->basic_max;
	m->ext[0].eax = m->ext_max;
	if (!m->intel) {
		m->ext[0] = m->basic[0];
		m->ext[0].eax = m->ext_max;
	}
}

/* The components of XCR0 and where the host's XSAVE puts them: images are the host's own. */
static void
x86_cpuid_build_xsave(struct x86_cpuid_build *b)
{
	const uint64_t legacy = X86_XCR0_X87 | X86_XCR0_SSE;
	struct x86_cpuid *m = b->m;
	struct x86_cpuid_regs d0 = x86_cpuid_read(b, 0xd, 0), r;
	uint64_t xcr0 = (d0.eax | (uint64_t)d0.edx << 32) & b->mask->xcr0;

	if (!(m->basic[1].ecx & X86_CPUID_1_ECX_XSAVE) || (xcr0 & legacy) != legacy) {
		m->basic[1].ecx &= ~X86_CPUID_1_ECX_XSAVE;
		return;
	}
	m->xcr0 = legacy;
	for (int i = 2; i < X86_XCOMPS; i++) {
		if (!(xcr0 & BIT64(i)))
			continue;
		r = x86_cpuid_read(b, 0xd, (uint32_t)i);
		/* Only what struct x86_state has room for. */
		if (r.eax == 0 || r.ebx < X86_XSAVE_EXTENDED || r.ebx > X86_XSAVE_SIZE ||
		    r.eax > X86_XSAVE_SIZE - r.ebx)
			continue;
		m->xcr0 |= BIT64(i);
		m->xcomp[i].size = r.eax;
		m->xcomp[i].offset = r.ebx;
		m->xcomp[i].flags = r.ecx & X86_CPUID_D_N_ECX_ALIGN;
	}
	if (!(m->xcr0 & X86_XCR0_AVX) || (m->xcr0 & X86_XCR0_AVX512) != X86_XCR0_AVX512)
		m->xcr0 &= ~X86_XCR0_AVX512; /* all or nothing (SDM 1, 13.3) */
	m->xsave_features = x86_cpuid_read(b, 0xd, 1).eax & b->mask->fd_1_eax;
}

/* Takes back what needs state components that are not there. */
static void
x86_cpuid_build_dependent(struct x86_cpuid *m)
{
	struct x86_cpuid_regs *f1 = &m->basic[1], *f7 = &m->basic[7];

	if ((m->xcr0 & X86_XCR0_AVX512) != X86_XCR0_AVX512) {
		f7->ebx &= ~X86_CPUID_7_EBX_AVX512;
		f7->ecx &= ~X86_CPUID_7_ECX_AVX512;
		f7->edx &= ~X86_CPUID_7_EDX_AVX512;
		m->leaf_7_1.eax &= ~X86_CPUID_7_1_EAX_AVX512;
	}
	if (!(m->xcr0 & X86_XCR0_AVX)) {
		f1->ecx &= ~(X86_CPUID_1_ECX_AVX | X86_CPUID_1_ECX_FMA | X86_CPUID_1_ECX_F16C);
		f7->ebx &= ~X86_CPUID_7_EBX_AVX2;
		f7->ecx &= ~(X86_CPUID_7_ECX_VAES | X86_CPUID_7_ECX_VPCLMULQDQ);
		m->leaf_7_1.eax &= ~X86_CPUID_7_1_EAX_AVX;
		m->ext[1].ecx &= ~(X86_CPUID_E1_ECX_XOP | X86_CPUID_E1_ECX_FMA4);
	}
}

static void
x86_cpuid_build_features(struct x86_cpuid_build *b)
{
	struct x86_cpuid *m = b->m;
	const struct x86_cpuid_mask *k = b->mask;
	uint32_t per_package = m->topo.cores * m->topo.threads;
	struct x86_cpuid_regs r;

	r = x86_cpuid_read(b, 1, 0);
	m->basic[1].eax = r.eax;
	/* Logical processors: Intel means APIC IDs, AMD processors. The APIC ID comes at the
	 * query. */
	if (m->intel)
		m->basic[1].ebx = MIN(1u << (m->thread_bits + m->core_bits), 255) << 16;
	else
		m->basic[1].ebx = MIN(per_package, 255) << 16;
	m->basic[1].ebx |= r.ebx & 0xffff;
	m->basic[1].ecx = (r.ecx & k->f1_ecx) | k->set_f1_ecx | X86_CPUID_1_ECX_HYPERVISOR;
	m->basic[1].ecx &= ~X86_CPUID_1_ECX_OSXSAVE;
	m->basic[1].edx = (r.edx & k->f1_edx & ~X86_CPUID_1_EDX_HTT) | k->set_f1_edx;
	if (per_package > 1)
		m->basic[1].edx |= X86_CPUID_1_EDX_HTT;

	m->basic[6].eax = X86_CPUID_6_EAX_ARAT; /* an emulated APIC timer never stops */

	r = x86_cpuid_read(b, 7, 0);
	m->basic[7].ebx = (r.ebx & k->f7_ebx) | k->set_f7_ebx;
	m->basic[7].ecx = ((r.ecx & k->f7_ecx) | k->set_f7_ecx) & ~X86_CPUID_7_ECX_OSPKE;
	m->basic[7].edx = (r.edx & k->f7_edx) | (m->intel ? k->set_f7_edx : 0);
	if (r.eax >= 1)
		m->leaf_7_1.eax = x86_cpuid_read(b, 7, 1).eax & k->f7_1_eax;

	r = x86_cpuid_read(b, X86_CPUID_EXT + 1, 0);
	if (!m->intel) {
		m->ext[1].eax = r.eax;
		m->ext[1].ebx = r.ebx;
	}
	m->ext[1].ecx = (r.ecx & k->e1_ecx) | k->set_e1_ecx;
	if (per_package == 1)
		m->ext[1].ecx &= ~X86_CPUID_E1_ECX_CMP_LEGACY;
	m->ext[1].edx = (r.edx & k->e1_edx) | k->set_e1_edx;
	if (!m->intel)
		m->ext[0x21].eax = (x86_cpuid_read(b, X86_CPUID_EXT + 0x21, 0).eax & k->e21_eax) |
		    k->set_e21_eax;

	x86_cpuid_build_xsave(b);
	x86_cpuid_build_dependent(m);
	m->basic[7].eax = m->leaf_7_1.eax != 0;
}

/* Brand string, address sizes, power. */
static void
x86_cpuid_build_extended(struct x86_cpuid_build *b)
{
	struct x86_cpuid *m = b->m;
	struct x86_cpuid_regs r;
	uint32_t phys_bits;

	for (uint32_t i = 2; i <= 4; i++)
		m->ext[i] = x86_cpuid_read(b, X86_CPUID_EXT + i, 0);
	m->ext[7].edx =
	    x86_cpuid_read(b, X86_CPUID_EXT + 7, 0).edx & X86_CPUID_E7_EDX_INVARIANT_TSC;

	r = x86_cpuid_read(b, X86_CPUID_EXT + 8, 0);
	phys_bits = r.eax & 0xff;
	if (phys_bits < 32 || phys_bits > 52)
		phys_bits = 36; /* as processors without this leaf (SDM 3, 4.1.4) */
	m->ext[8].eax = phys_bits | (m->basic[7].ecx & X86_CPUID_7_ECX_LA57 ? 57 : 48) << 8;
	m->ext[8].ebx = (r.ebx & b->mask->e8_ebx) | (m->intel ? 0 : b->mask->set_e8_ebx);
	if (!m->intel)
		m->ext[8].ecx = (m->topo.cores * m->topo.threads - 1) |
		    (m->thread_bits + m->core_bits) << 12;
}

/* Ways from the associativity code of leaf 0x80000006 (APM 3, E.4.5); 0: see leaf 0x8000001d. */
static uint32_t
x86_cpuid_amd_ways(uint32_t code)
{
	static const uint8_t ways[16] = { 0, 1, 2, 3, 4, 6, 8, 0, 16, 0, 32, 48, 64, 96, 128, 0 };

	return ways[code & 15];
}

/* A cache's leaf from what AMD's older leaves tell of it; absent when they do not tell enough. */
static void
x86_cpuid_make_cache(struct x86_cpuid_regs *c, uint32_t type, uint32_t level, uint64_t size,
    uint32_t ways, uint32_t line)
{
	if (size == 0 || ways == 0 || line == 0 || size / ways / line == 0)
		return;
	c->eax = type | level << 5 | BIT(8);
	c->ebx = (line - 1) | (ways - 1) << 22;
	c->ecx = (uint32_t)(size / ways / line - 1);
}

/* A host that hides leaf 0x8000001d (hypervisors do) may still tell its caches the old way. */
static void
x86_cpuid_make_amd_caches(struct x86_cpuid *m)
{
	const struct x86_cpuid_regs *e5 = &m->ext[5], *e6 = &m->ext[6];
	struct x86_cpuid_regs all[4] = { 0 };
	size_t n = 0;

	x86_cpuid_make_cache(&all[0], 1, 1, KIB(e5->ecx >> 24), e5->ecx >> 16 & 0xff,
	    e5->ecx & 0xff);
	x86_cpuid_make_cache(&all[1], 2, 1, KIB(e5->edx >> 24), e5->edx >> 16 & 0xff,
	    e5->edx & 0xff);
	x86_cpuid_make_cache(&all[2], 3, 2, KIB(e6->ecx >> 16),
	    x86_cpuid_amd_ways(BITS(e6->ecx, 12, 4)), e6->ecx & 0xff);
	/* Where the code says that only the other leaf knows, any number of ways is as good: 16. */
	x86_cpuid_make_cache(&all[3], 3, 3, KIB(512) * (e6->edx >> 18),
	    BITS(e6->edx, 12, 4) == 9 ? 16 : x86_cpuid_amd_ways(BITS(e6->edx, 12, 4)),
	    e6->edx & 0xff);
	for (size_t i = 0; i < ARRAY_SIZE(all); i++) {
		if (all[i].eax != 0)
			m->cache[n++] = all[i];
	}
}

/* Caches: the host's sizes, shared as the VM's topology has it. */
static void
x86_cpuid_build_caches(struct x86_cpuid_build *b)
{
	struct x86_cpuid *m = b->m;
	const uint32_t leaf = m->intel ? 4 : X86_CPUID_EXT + 0x1d;

	if (m->intel) {
		m->basic[2] = x86_cpuid_read(b, 2, 0);
		m->ext[6].ecx = x86_cpuid_read(b, X86_CPUID_EXT + 6, 0).ecx;
	} else {
		m->ext[5] = x86_cpuid_read(b, X86_CPUID_EXT + 5, 0);
		m->ext[6] = x86_cpuid_read(b, X86_CPUID_EXT + 6, 0);
	}
	for (uint32_t i = 0; i < X86_CACHES; i++) {
		m->cache[i] = x86_cpuid_read(b, leaf, i);
		if (X86_CACHE_TYPE(m->cache[i].eax) == 0) {
			m->cache[i] = (struct x86_cpuid_regs){ 0 };
			break;
		}
	}
	if (!m->intel && m->cache[0].eax == 0)
		x86_cpuid_make_amd_caches(m);
	for (uint32_t i = 0; i < X86_CACHES && m->cache[i].eax != 0; i++) {
		struct x86_cpuid_regs *c = &m->cache[i];
		unsigned bits = m->thread_bits;

		if (X86_CACHE_LEVEL(c->eax) >= 3)
			bits += m->core_bits;
		c->eax = (c->eax & 0x3fff) | ((1u << bits) - 1) << 14;
		if (m->intel)
			c->eax |= MIN((1u << m->core_bits) - 1, 63) << 26;
	}
}

/* KVM's leaves (cpuid.rst). All that is offered of its features needs a TSC of known frequency. */
static void
x86_cpuid_build_kvm(struct x86_cpuid_build *b)
{
	static const char signature[12] = "KVMKVMKVM";
	struct x86_cpuid *m = b->m;

	if (b->mask->kvm_features == 0)
		return;
	m->kvm.eax = X86_CPUID_KVM_FEATURES;
	memcpy(&m->kvm.ebx, signature, 4);
	memcpy(&m->kvm.ecx, signature + 4, 4);
	memcpy(&m->kvm.edx, signature + 8, 4);
	m->kvm_features.eax = b->mask->kvm_features;
}

/* Frequencies, and the leaves by which a guest knows its hypervisor. */
static void
x86_cpuid_build_timing(struct x86_cpuid_build *b)
{
	static const char signature[12] = "bhyve bhyve ";
	struct x86_cpuid *m = b->m;

	m->hypervisor_max = b->tsc_khz != 0 ? X86_CPUID_HYPERVISOR_TIMING : X86_CPUID_HYPERVISOR;
	m->hypervisor.eax = m->hypervisor_max;
	memcpy(&m->hypervisor.ebx, signature, 4);
	memcpy(&m->hypervisor.ecx, signature + 4, 4);
	memcpy(&m->hypervisor.edx, signature + 8, 4);
	if (b->tsc_khz == 0)
		return;
	x86_cpuid_build_kvm(b);
	m->timing.eax = b->tsc_khz;
	m->timing.ebx = X86_APIC_TIMER_HZ / 1000;
	if (!m->intel)
		return;
	/* TSC = crystal * EBX / EAX. Guests take the crystal for the APIC timer's clock, too. */
	m->basic[0x15] = (struct x86_cpuid_regs){ .eax = X86_APIC_TIMER_HZ / 1000,
		.ebx = b->tsc_khz,
		.ecx = X86_APIC_TIMER_HZ };
	m->basic[0x16] = (struct x86_cpuid_regs){
		.eax = b->tsc_khz / 1000, .ebx = b->tsc_khz / 1000, .ecx = 100
	};
}

struct x86_cpuid *
x86_cpuid_create(x86_cpuid_read_fn *read, void *arg, const struct x86_cpuid_mask *mask,
    const struct x86_topology *topo, uint32_t tsc_khz)
{
	struct x86_cpuid *m = calloc(1, sizeof(*m));
	struct x86_cpuid_build b = { m, mask, read, arg, 0, 0, tsc_khz };

	if (m == NULL)
		return NULL;
	m->topo = *topo;
	m->thread_bits = x86_topology_bits(topo->threads);
	m->core_bits = x86_topology_bits(topo->cores);
	x86_cpuid_build_vendor(&b);
	x86_cpuid_build_features(&b);
	x86_cpuid_build_extended(&b);
	x86_cpuid_build_caches(&b);
	x86_cpuid_build_timing(&b);
	return m;
}

void
x86_cpuid_destroy(struct x86_cpuid *model)
{
	free(model);
}

/* --- Queries --- */

/* Extended topology (SDM 3, 8.9.1): level 0 is threads of a core, 1 cores of a package. */
static void
x86_cpuid_query_topology(const struct x86_cpuid *m, const struct x86_cpuid_ctx *ctx,
    uint32_t subleaf, struct x86_cpuid_regs *out)
{
	out->ecx = subleaf & 0xff;
	out->edx = ctx->apic_id;
	if (subleaf == 0) {
		out->eax = m->thread_bits;
		out->ebx = m->topo.threads;
		out->ecx |= 1 << 8;
	} else if (subleaf == 1) {
		out->eax = m->thread_bits + m->core_bits;
		out->ebx = m->topo.threads * m->topo.cores;
		out->ecx |= 2 << 8;
	}
}

/* Bytes of an XSAVE image with these components. */
static uint32_t
x86_cpuid_xsave_size(const struct x86_cpuid *m, uint64_t components, bool compact)
{
	uint32_t size = X86_XSAVE_EXTENDED;

	for (int i = 2; i < X86_XCOMPS; i++) {
		if (!(components & m->xcr0 & BIT64(i)))
			continue;
		if (!compact) {
			size = MAX(size, m->xcomp[i].offset + m->xcomp[i].size);
			continue;
		}
		if (m->xcomp[i].flags & X86_CPUID_D_N_ECX_ALIGN)
			size = ALIGN_UP(size, 64u);
		size += m->xcomp[i].size;
	}
	return size;
}

static void
x86_cpuid_query_xsave(const struct x86_cpuid *m, const struct x86_cpuid_ctx *ctx, uint32_t subleaf,
    struct x86_cpuid_regs *out)
{
	if (m->xcr0 == 0)
		return;
	if (subleaf == 0) {
		out->eax = (uint32_t)m->xcr0;
		out->ebx = x86_cpuid_xsave_size(m, ctx->xcr0, false);
		out->ecx = x86_cpuid_xsave_size(m, m->xcr0, false);
		out->edx = (uint32_t)(m->xcr0 >> 32);
	} else if (subleaf == 1) {
		out->eax = m->xsave_features;
		if (m->xsave_features & X86_CPUID_D_1_EAX_COMPACT)
			out->ebx = x86_cpuid_xsave_size(m, ctx->xcr0 | ctx->xss, true);
	} else if (subleaf < X86_XCOMPS && (m->xcr0 & BIT64(subleaf))) {
		out->eax = m->xcomp[subleaf].size;
		out->ebx = m->xcomp[subleaf].offset;
		out->ecx = m->xcomp[subleaf].flags;
	}
}

static void
x86_cpuid_query_basic(const struct x86_cpuid *m, const struct x86_cpuid_ctx *ctx, uint32_t leaf,
    uint32_t subleaf, struct x86_cpuid_regs *out)
{
	*out = m->basic[leaf];
	switch (leaf) {
	case 1:
		out->ebx |= ctx->apic_id << 24;
		if ((ctx->cr4 & X86_CR4_OSXSAVE) && (out->ecx & X86_CPUID_1_ECX_XSAVE))
			out->ecx |= X86_CPUID_1_ECX_OSXSAVE;
		if (!(ctx->apic_base & X86_APIC_BASE_ENABLE))
			out->edx &= ~X86_CPUID_1_EDX_APIC;
		break;
	case 4:
		if (m->intel && subleaf < X86_CACHES)
			*out = m->cache[subleaf];
		break;
	case 7:
		if (subleaf != 0)
			*out = (struct x86_cpuid_regs){ 0 };
		if (subleaf == 1)
			*out = m->leaf_7_1;
		if (subleaf == 0 && (ctx->cr4 & X86_CR4_PKE) && (out->ecx & X86_CPUID_7_ECX_PKU))
			out->ecx |= X86_CPUID_7_ECX_OSPKE;
		break;
	case 0xb: x86_cpuid_query_topology(m, ctx, subleaf, out); break;
	case 0xd: x86_cpuid_query_xsave(m, ctx, subleaf, out); break;
	}
}

static void
x86_cpuid_query_extended(const struct x86_cpuid *m, const struct x86_cpuid_ctx *ctx, uint32_t leaf,
    uint32_t subleaf, struct x86_cpuid_regs *out)
{
	unsigned package_bits = m->thread_bits + m->core_bits;

	*out = m->ext[leaf - X86_CPUID_EXT];
	switch (leaf - X86_CPUID_EXT) {
	case 1:
		if (!m->intel && !(ctx->apic_base & X86_APIC_BASE_ENABLE))
			out->edx &= ~X86_CPUID_1_EDX_APIC; /* AMD repeats it here */
		break;
	case 0x1d:
		if (subleaf < X86_CACHES)
			*out = m->cache[subleaf];
		break;
	case 0x1e: /* APM 3, E.4.17: each socket is one node */
		out->eax = ctx->apic_id;
		out->ebx = (uint32_t)BITS(ctx->apic_id, m->thread_bits, m->core_bits) |
		    (m->topo.threads - 1) << 8;
		out->ecx = ctx->apic_id >> package_bits & 0xff;
		break;
	}
}

void
x86_cpuid_query(const struct x86_cpuid *model, const struct x86_cpuid_ctx *ctx, uint32_t leaf,
    uint32_t subleaf, struct x86_cpuid_regs *out)
{
	*out = (struct x86_cpuid_regs){ 0 };
	if (leaf >= X86_CPUID_HYPERVISOR && leaf <= X86_CPUID_HYPERVISOR_END) {
		switch (leaf) {
		case X86_CPUID_HYPERVISOR: *out = model->hypervisor; break;
		case X86_CPUID_HYPERVISOR_TIMING: *out = model->timing; break;
		case X86_CPUID_KVM: *out = model->kvm; break;
		case X86_CPUID_KVM_FEATURES: *out = model->kvm_features; break;
		default: break;
		}
	} else if (leaf <= model->basic_max) {
		x86_cpuid_query_basic(model, ctx, leaf, subleaf, out);
	} else if (leaf >= X86_CPUID_EXT && leaf <= model->ext_max) {
		x86_cpuid_query_extended(model, ctx, leaf, subleaf, out);
	} else if (model->intel) {
		/* SDM 2, CPUID: "the data for the highest basic information leaf is returned". */
		x86_cpuid_query_basic(model, ctx, model->basic_max, subleaf, out);
	}
}

uint64_t
x86_cpuid_xcr0(const struct x86_cpuid *model)
{
	return model->xcr0;
}

void
x86_cpuid_xcomp(const struct x86_cpuid *model, int i, uint32_t *offset, uint32_t *size)
{
	bool present = i >= 2 && i < X86_XCOMPS && (model->xcr0 & BIT64(i));

	*offset = present ? model->xcomp[i].offset : 0;
	*size = present ? model->xcomp[i].size : 0;
}

int
x86_cpuid_phys_bits(const struct x86_cpuid *model)
{
	return (int)(model->ext[8].eax & 0xff);
}

bool
x86_cpuid_is_intel(const struct x86_cpuid *model)
{
	return model->intel;
}
