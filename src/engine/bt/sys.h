/*
 * Segments, descriptors and far transfers: what the system instructions (sys_*.c), event delivery
 * (exc.c) and task switches (task.c) share. SDM 3, chapters 3, 5, 6 and 7.
 *
 * Everything here raises the guest's exceptions itself (bt_raise*) unless it says otherwise.
 */
#ifndef BT_SYS_H
#define BT_SYS_H

#include "engine/bt/mem.h"

/* A descriptor as it stands in memory. */
struct bt_desc {
	uint32_t lo, hi;
	uint64_t la; /* its linear address */
};

/* What a selector contributes to an error code. */
#define BT_SEL_ERR(sel) ((uint32_t)(sel)&0xfffcu)
#define BT_SEL_NULL(sel) (((sel)&0xfffcu) == 0)

static inline uint16_t
bt_desc_attr(const struct bt_desc *d)
{
	return (uint16_t)((d->hi >> 8) & 0xf0ff);
}

static inline unsigned
bt_desc_type(const struct bt_desc *d)
{
	return (d->hi >> 8) & X86_SEG_TYPE;
}

static inline unsigned
bt_desc_dpl(const struct bt_desc *d)
{
	return (d->hi >> 13) & 3;
}

static inline bool
bt_desc_present(const struct bt_desc *d)
{
	return (d->hi >> 15) & 1;
}

static inline bool
bt_desc_is_system(const struct bt_desc *d)
{
	return !((d->hi >> 12) & 1);
}

static inline bool
bt_desc_is_code(const struct bt_desc *d)
{
	return (d->hi & (3u << 11)) == 3u << 11;
}

/* The low 32 bits of the base; system descriptors in long mode have 32 more: bt_desc_base64(). */
uint32_t bt_desc_base(const struct bt_desc *d);
uint64_t bt_desc_base64(struct bt_cpu *cpu, const struct bt_desc *d);
/* The limit in bytes, granularity applied. */
uint32_t bt_desc_limit(const struct bt_desc *d);
/* Reads the descriptor sel names in the GDT or LDT. False, nothing raised, when sel is null or beyond its
 * table's limit. size is 8, or 16 for system descriptors of long mode (only the limit check differs). */
bool bt_desc_load(struct bt_cpu *cpu, uint16_t sel, int size, struct bt_desc *d);
/* Sets the accessed bit of a code or data descriptor, or another type value, in memory. */
void bt_desc_set_accessed(struct bt_cpu *cpu, struct bt_desc *d);
void bt_desc_set_type(struct bt_cpu *cpu, struct bt_desc *d, unsigned type);

/* Loads a segment register's hidden part; no checks, cannot fault. The caller then runs
 * bt_mode_update(). bt_seg_set_real: as real mode and virtual-8086 mode do. */
void bt_seg_set(struct bt_cpu *cpu, int seg, uint16_t sel, const struct bt_desc *d);
void bt_seg_set_null(struct bt_cpu *cpu, int seg, uint16_t sel);
void bt_seg_set_real(struct bt_cpu *cpu, int seg, uint16_t sel);
/* MOV to ES, SS, DS, FS or GS in any mode, all checks included (SDM 2, MOV); ends in bt_mode_update(). */
void bt_seg_load(struct bt_cpu *cpu, int seg, uint16_t sel);
/* After a return to an outer privilege level: data segments the new CPL may not use become null. */
void bt_seg_drop_inner(struct bt_cpu *cpu);

/* Whether la is canonical for the current paging depth (48 or 57 bits); always in 32-bit modes. */
bool bt_canonical(const struct bt_cpu *cpu, uint64_t la);

/*
 * A stack that is being built or taken apart before RSP is committed, so that a fault half-way leaves
 * nothing changed. Either the current one or an inner one taken from a TSS.
 */
struct bt_stack {
	uint64_t sp, mask; /* mask: by the stack segment's size */
	bool inner;
	/* An inner stack: its segment (selector for #SS), used with supervisor rights. */
	struct x86_segment ss;
	bool long_mode; /* no limit to check; canonical instead */
};
void bt_stack_current(struct bt_cpu *cpu, struct bt_stack *st);
void bt_stack_push(struct bt_cpu *cpu, struct bt_stack *st, int size, uint64_t val);
uint64_t bt_stack_pop(struct bt_cpu *cpu, struct bt_stack *st, int size);
/* RSP takes the value, in the width of the stack. */
void bt_stack_commit(struct bt_cpu *cpu, const struct bt_stack *st);
/* The stack for privilege level pl (0 to 2) from the current TSS, checked: #TS(sel), #SS(sel). In 64-bit
 * mode ist 1 to 7 picks an IST entry, 0 RSPpl; SS is then null. In legacy mode *desc gets its descriptor
 * (accessed bit set), for bt_seg_set(). ext is 1 or 0: the EXT bit of error codes. */
void bt_stack_inner(struct bt_cpu *cpu, int pl, int ist, int ext, struct bt_stack *st,
    struct bt_desc *desc);

/* Sets CS to a code descriptor that has been checked, at privilege cpl, and RIP; CPL and modes follow. */
void bt_enter_code(struct bt_cpu *cpu, uint16_t sel, const struct bt_desc *d, int cpl, uint64_t rip);
/* #GP(0) unless offset is inside a code descriptor's limit, or canonical where it is a 64-bit one. */
void bt_check_code_offset(struct bt_cpu *cpu, const struct bt_desc *d, uint64_t offset);

/* CR writes with all checks (#GP(0)); flush translations as SDM 3, 4.10.4.1 says. cr3_load is MOV to CR3
 * without the privilege check, for task switches too. */
void bt_cr0_write(struct bt_cpu *cpu, uint64_t val);
void bt_cr3_load(struct bt_cpu *cpu, uint64_t val);
void bt_cr4_write(struct bt_cpu *cpu, uint64_t val);
/* Reads the PAE page-directory-pointer entries at CR3 (SDM 3, 4.4.1): false when a reserved bit is set. */
bool bt_pdptes_load(struct bt_cpu *cpu, uint64_t cr3);

/* RDMSR and WRMSR without privilege checks. 0, or -EINVAL for #GP(0). */
int bt_msr_read(struct bt_cpu *cpu, uint32_t msr, uint64_t *val);
int bt_msr_write(struct bt_cpu *cpu, uint32_t msr, uint64_t val);

/* The guest's TSC now. */
uint64_t bt_tsc(const struct bt_cpu *cpu);

/* Whether I/O to size bytes of ports from port on is allowed at the current CPL and IOPL; reads the
 * TSS's permission map (SDM 1, 19.5.2). */
bool bt_io_allowed(struct bt_cpu *cpu, uint16_t port, int size);

#endif
