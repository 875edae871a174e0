/*
 * A builder for ACPI tables and the AML in them (ACPI 6.4, 20.2): bytes are appended, blocks are
 * opened and closed, and the first error sticks, so that callers check once, at the end.
 *
 *	struct aml a;
 *	aml_init(&a);
 *	size_t scope = aml_scope(&a, "\\_SB");
 *	size_t dev = aml_device(&a, "COM1");
 *	aml_name_eisaid(&a, "_HID", "PNP0501");
 *	size_t crs = aml_crs(&a);
 *	aml_res_io(&a, 0x3f8, 8);
 *	aml_res_irq(&a, 4);
 *	aml_crs_end(&a, crs);
 *	aml_end(&a, dev);
 *	aml_end(&a, scope);
 *	err = aml_error(&a);
 *	...
 *	aml_free(&a);
 *
 * What opens a block returns a mark, which the matching aml_end() takes; blocks close in reverse
 * order. Names are ASL's: "_CRS", "PCI0", "\\_SB.PCI0", "^PRES"; segments are padded with '_'.
 * Malformed ones are a caller's mistake (assert). One thread at a time.
 */
#ifndef FIRMWARE_AML_H
#define FIRMWARE_AML_H

#include "base/bits.h"

struct aml {
	uint8_t *buf; /* len bytes, owned */
	size_t len, cap;
	int err;
};

void aml_init(struct aml *a);
void aml_free(struct aml *a);
int aml_error(const struct aml *a); /* 0 or the first -errno */

/* Plain data, little-endian. */
void aml_bytes(struct aml *a, const void *p, size_t len);
void aml_u8(struct aml *a, uint8_t v);
void aml_u16(struct aml *a, uint16_t v);
void aml_u32(struct aml *a, uint32_t v);
void aml_u64(struct aml *a, uint64_t v);

/* Objects and names (20.2.2, 20.2.3). Integers take the shortest encoding. */
void aml_int(struct aml *a, uint64_t v);
void aml_str(struct aml *a, const char *s);
void aml_eisaid(struct aml *a, const char *id); /* "PNP0A08", as a compressed integer */
void aml_path(struct aml *a, const char *name); /* a reference to what name names */
void aml_name(struct aml *a, const char *name); /* Name (name, what is appended next) */
void aml_name_int(struct aml *a, const char *name, uint64_t v);
void aml_name_str(struct aml *a, const char *name, const char *s);
void aml_name_eisaid(struct aml *a, const char *name, const char *id);

/* Blocks (20.2.5). aml_end() closes any of them. */
size_t aml_scope(struct aml *a, const char *name);
size_t aml_device(struct aml *a, const char *name);
size_t aml_method(struct aml *a, const char *name, int args);
size_t aml_package(struct aml *a, int elements); /* at most 255 */
size_t aml_if(struct aml *a); /* the condition is appended next */
size_t aml_else(struct aml *a);
void aml_end(struct aml *a, size_t mark);

/* Operators of methods (20.2.5.3, 20.2.5.4), operands appended next. */
enum aml_op {
	AML_LOCAL0 = 0x60,
	AML_ARG0 = 0x68, AML_ARG1 = 0x69, AML_ARG2 = 0x6a, AML_ARG3 = 0x6b,
	AML_STORE = 0x70, /* source, target */
	AML_AND = 0x7b, /* operand, operand, target */
	AML_OR = 0x7d,
	AML_CREATE_DWORD_FIELD = 0x8a, /* buffer, byte index, name */
	AML_LNOT = 0x92,
	AML_LEQUAL = 0x93,
	AML_RETURN = 0xa4,
};
void aml_op(struct aml *a, enum aml_op op);
void aml_no_target(struct aml *a); /* an operator's result goes nowhere */
/* ToUUID ("33db4d5b-...") (19.6.142) */
void aml_uuid(struct aml *a, const char *uuid);

/* Resource templates (6.4), as the _CRS of the open device. */
size_t aml_crs(struct aml *a);
void aml_crs_end(struct aml *a, size_t mark);
void aml_res_io(struct aml *a, uint16_t base, uint8_t len); /* decodes 16 bits */
void aml_res_irq(struct aml *a, int irq); /* ISA: edge-triggered, active high, exclusive */
void aml_res_mem32(struct aml *a, uint32_t base, uint32_t len); /* fixed, read-write */
/* Ranges that a bridge passes on to its children: base to limit, inclusive. */
void aml_res_bus_window(struct aml *a, uint8_t base, uint8_t limit);
void aml_res_io_window(struct aml *a, uint16_t base, uint16_t limit);
void aml_res_mem_window(struct aml *a, uint64_t base, uint64_t limit); /* below 4 GiB: 32 bits */

/* A system description table (5.2.6): its header, to be followed by its body. */
void aml_table(struct aml *a, const char *signature, uint8_t revision);
/* Completes the length and checksum of the table that starts at offset 0. */
void aml_table_end(struct aml *a);
/* What makes len bytes sum to 0 with it. */
uint8_t aml_checksum(const void *p, size_t len);

#endif
