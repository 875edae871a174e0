/*
 * ACPI Machine Language (ACPI 6.4, chapter 20) and resource data types (6.4).
 */
#include "firmware/aml.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Opcodes (20.2, table 20.2). AML_EXT precedes two-byte ones. */
enum {
	AML_ZERO = 0x00,
	AML_ONE = 0x01,
	AML_NAME = 0x08,
	AML_BYTE = 0x0a,
	AML_WORD = 0x0b,
	AML_DWORD = 0x0c,
	AML_STRING = 0x0d,
	AML_QWORD = 0x0e,
	AML_SCOPE = 0x10,
	AML_BUFFER = 0x11,
	AML_PACKAGE = 0x12,
	AML_METHOD = 0x14,
	AML_DUAL_NAME = 0x2e,
	AML_MULTI_NAME = 0x2f,
	AML_EXT = 0x5b,
	AML_IF = 0xa0,
	AML_ELSE = 0xa1,
	AML_EXT_DEVICE = 0x82,
};

/* Resource descriptors (6.4.2, 6.4.3) */
#define AML_RES_IRQ_NOFLAGS 0x22 /* small: two bytes follow */
#define AML_RES_IO 0x47 /* small: seven bytes follow */
#define AML_RES_END 0x79
#define AML_RES_MEM32_FIXED 0x86
#define AML_RES_DWORD 0x87
#define AML_RES_WORD 0x88
#define AML_RES_QWORD 0x8a
#define AML_RES_TYPE_MEM 0 /* address space descriptors: resource type (6.4.3.5) */
#define AML_RES_TYPE_IO 1
#define AML_RES_TYPE_BUS 2
#define AML_RES_FIXED 0x0c /* general flags: positive decode, minimum and maximum fixed */
#define AML_RES_MEM_RW 0x01
#define AML_RES_IO_ENTIRE 0x03

#define AML_PKG_LENGTH_MAX 4 /* bytes a package length may take (20.2.4) */
#define AML_TABLE_MAX MIB(1) /* far more than any table here needs */

void
aml_init(struct aml *a)
{
	*a = (struct aml){ 0 };
}

void
aml_free(struct aml *a)
{
	free(a->buf);
	aml_init(a);
}

int
aml_error(const struct aml *a)
{
	return a->err;
}

/* Makes room for len bytes at off, moving what is behind. NULL once there was an error. */
static uint8_t *
aml_insert(struct aml *a, size_t off, size_t len)
{
	if (a->err == 0 && len > AML_TABLE_MAX - a->len)
		a->err = -ENOSPC;
	if (a->err == 0 && a->len + len > a->cap) {
		size_t cap = MAX(a->cap * 2, a->len + len + 1024);
		uint8_t *buf = realloc(a->buf, cap);

		if (buf == NULL) {
			a->err = -ENOMEM;
		} else {
			a->buf = buf;
			a->cap = cap;
		}
	}
	if (a->err != 0)
		return NULL;
	memmove(a->buf + off + len, a->buf + off, a->len - off);
	a->len += len;
	return a->buf + off;
}

void
aml_bytes(struct aml *a, const void *p, size_t len)
{
	uint8_t *to = aml_insert(a, a->len, len);

	if (to != NULL)
		memcpy(to, p, len);
}

static void
aml_le(struct aml *a, uint64_t v, size_t len)
{
	aml_bytes(a, &v, len); /* the host is little-endian, as the guest */
}

void
aml_u8(struct aml *a, uint8_t v)
{
	aml_le(a, v, 1);
}

void
aml_u16(struct aml *a, uint16_t v)
{
	aml_le(a, v, 2);
}

void
aml_u32(struct aml *a, uint32_t v)
{
	aml_le(a, v, 4);
}

void
aml_u64(struct aml *a, uint64_t v)
{
	aml_le(a, v, 8);
}

/* --- Objects and names --- */

void
aml_int(struct aml *a, uint64_t v)
{
	if (v <= 1) {
		aml_u8(a, v == 0 ? AML_ZERO : AML_ONE);
	} else if (v <= UINT8_MAX) {
		aml_u8(a, AML_BYTE);
		aml_le(a, v, 1);
	} else if (v <= UINT16_MAX) {
		aml_u8(a, AML_WORD);
		aml_le(a, v, 2);
	} else if (v <= UINT32_MAX) {
		aml_u8(a, AML_DWORD);
		aml_le(a, v, 4);
	} else {
		aml_u8(a, AML_QWORD);
		aml_le(a, v, 8);
	}
}

void
aml_str(struct aml *a, const char *s)
{
	aml_u8(a, AML_STRING);
	aml_bytes(a, s, strlen(s) + 1);
}

/* Three letters of five bits and four hexadecimal digits, big-endian (6.1.5, EISAID). */
void
aml_eisaid(struct aml *a, const char *id)
{
	uint32_t v = 0;

	assert(strlen(id) == 7);
	for (int i = 0; i < 3; i++) {
		assert(id[i] >= 'A' && id[i] <= 'Z');
		v = v << 5 | (uint32_t)(id[i] - '@');
	}
	v = v << 16 | (uint32_t)strtoul(id + 3, NULL, 16);
	aml_u8(a, AML_DWORD);
	aml_u32(a, __builtin_bswap32(v));
}

/* NameSeg: four characters, padded with '_' (20.2.2). */
static void
aml_name_segment(struct aml *a, const char *seg, size_t len)
{
	char padded[4] = { '_', '_', '_', '_' };

	assert(len >= 1 && len <= sizeof(padded));
	assert(isupper((unsigned char)seg[0]) || seg[0] == '_');
	memcpy(padded, seg, len);
	aml_bytes(a, padded, sizeof(padded));
}

void
aml_path(struct aml *a, const char *name)
{
	size_t segs = 1;

	while (*name == '\\' || *name == '^')
		aml_u8(a, (uint8_t)*name++);
	for (const char *p = name; *p != '\0'; p++)
		segs += *p == '.';
	if (segs == 2) {
		aml_u8(a, AML_DUAL_NAME);
	} else if (segs > 2) {
		aml_u8(a, AML_MULTI_NAME);
		aml_u8(a, (uint8_t)segs);
	}
	for (; segs > 0; segs--) {
		size_t len = strcspn(name, ".");

		aml_name_segment(a, name, len);
		name += len + 1;
	}
}

void
aml_name(struct aml *a, const char *name)
{
	aml_u8(a, AML_NAME);
	aml_path(a, name);
}

void
aml_name_int(struct aml *a, const char *name, uint64_t v)
{
	aml_name(a, name);
	aml_int(a, v);
}

void
aml_name_str(struct aml *a, const char *name, const char *s)
{
	aml_name(a, name);
	aml_str(a, s);
}

void
aml_name_eisaid(struct aml *a, const char *name, const char *id)
{
	aml_name(a, name);
	aml_eisaid(a, id);
}

/* --- Blocks --- */

/* Encodes a package length, which counts its own bytes (20.2.4). Returns how many it takes. */
static size_t
aml_pkg_length(size_t content, uint8_t out[AML_PKG_LENGTH_MAX])
{
	size_t bytes = 1;
	size_t len;

	if (content + 1 < 1u << 6) {
		out[0] = (uint8_t)(content + 1);
		return 1;
	}
	do {
		bytes++;
		len = content + bytes;
	} while (bytes < AML_PKG_LENGTH_MAX && len >= (size_t)1 << (4 + 8 * (bytes - 1)));
	out[0] = (uint8_t)((bytes - 1) << 6 | (len & 0xf));
	for (size_t i = 1; i < bytes; i++)
		out[i] = (uint8_t)(len >> (4 + 8 * (i - 1)));
	return bytes;
}

void
aml_end(struct aml *a, size_t mark)
{
	uint8_t encoded[AML_PKG_LENGTH_MAX];
	size_t bytes;
	uint8_t *to;

	if (a->err != 0)
		return;
	bytes = aml_pkg_length(a->len - mark, encoded);
	to = aml_insert(a, mark, bytes);
	if (to != NULL)
		memcpy(to, encoded, bytes);
}

size_t
aml_scope(struct aml *a, const char *name)
{
	size_t mark;

	aml_u8(a, AML_SCOPE);
	mark = a->len;
	aml_path(a, name);
	return mark;
}

size_t
aml_device(struct aml *a, const char *name)
{
	size_t mark;

	aml_u8(a, AML_EXT);
	aml_u8(a, AML_EXT_DEVICE);
	mark = a->len;
	aml_path(a, name);
	return mark;
}

size_t
aml_method(struct aml *a, const char *name, int args)
{
	size_t mark;

	assert(args >= 0 && args <= 7);
	aml_u8(a, AML_METHOD);
	mark = a->len;
	aml_path(a, name);
	/* Serialized: every method here creates named objects or writes a field. */
	aml_u8(a, (uint8_t)(args | BIT(3)));
	return mark;
}

size_t
aml_package(struct aml *a, int elements)
{
	size_t mark;

	assert(elements >= 0 && elements <= UINT8_MAX);
	aml_u8(a, AML_PACKAGE);
	mark = a->len;
	aml_u8(a, (uint8_t)elements);
	return mark;
}

size_t
aml_if(struct aml *a)
{
	aml_u8(a, AML_IF);
	return a->len;
}

size_t
aml_else(struct aml *a)
{
	aml_u8(a, AML_ELSE);
	return a->len;
}

void
aml_op(struct aml *a, enum aml_op op)
{
	aml_u8(a, (uint8_t)op);
}

void
aml_no_target(struct aml *a)
{
	aml_u8(a, AML_ZERO);
}

/* A buffer's length in front of its bytes; those begin at mark. */
static void
aml_buffer_end(struct aml *a, size_t mark)
{
	struct aml size;
	uint8_t *to;

	if (a->err != 0)
		return;
	aml_init(&size);
	aml_int(&size, a->len - mark);
	a->err = size.err;
	to = aml_insert(a, mark, size.len);
	if (to != NULL)
		memcpy(to, size.buf, size.len);
	aml_free(&size);
	aml_end(a, mark);
}

void
aml_uuid(struct aml *a, const char *uuid)
{
	/* Where the bytes of the text form go: the first three fields are little-endian. */
	static const uint8_t place[16] = { 3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15 };
	uint8_t bytes[16];
	size_t mark;

	assert(strlen(uuid) == 36);
	for (int i = 0; i < 16; i++) {
		unsigned v = 0;

		uuid += *uuid == '-';
		sscanf(uuid, "%2x", &v);
		bytes[place[i]] = (uint8_t)v;
		uuid += 2;
	}
	aml_u8(a, AML_BUFFER);
	mark = a->len;
	aml_bytes(a, bytes, sizeof(bytes));
	aml_buffer_end(a, mark);
}

/* --- Resources --- */

size_t
aml_crs(struct aml *a)
{
	aml_name(a, "_CRS");
	aml_u8(a, AML_BUFFER);
	return a->len;
}

void
aml_crs_end(struct aml *a, size_t mark)
{
	aml_u8(a, AML_RES_END);
	aml_u8(a, 0); /* a checksum of 0 counts as right */
	aml_buffer_end(a, mark);
}

void
aml_res_io(struct aml *a, uint16_t base, uint8_t len)
{
	aml_u8(a, AML_RES_IO);
	aml_u8(a, 1); /* decodes 16 bits */
	aml_u16(a, base); /* the lowest and the highest base: fixed */
	aml_u16(a, base);
	aml_u8(a, 1);
	aml_u8(a, len);
}

void
aml_res_irq(struct aml *a, int irq)
{
	assert(irq >= 0 && irq < 16);
	aml_u8(a, AML_RES_IRQ_NOFLAGS);
	aml_u16(a, (uint16_t)BIT(irq));
}

void
aml_res_mem32(struct aml *a, uint32_t base, uint32_t len)
{
	aml_u8(a, AML_RES_MEM32_FIXED);
	aml_u16(a, 9);
	aml_u8(a, AML_RES_MEM_RW);
	aml_u32(a, base);
	aml_u32(a, len);
}

/* An address space descriptor (6.4.3.5) with fields of width bytes. */
static void
aml_res_window(struct aml *a, uint8_t tag, size_t width, uint8_t type, uint8_t type_flags,
    uint64_t base, uint64_t limit)
{
	assert(limit >= base);
	aml_u8(a, tag);
	aml_u16(a, (uint16_t)(3 + 5 * width));
	aml_u8(a, type);
	aml_u8(a, AML_RES_FIXED);
	aml_u8(a, type_flags);
	aml_le(a, 0, width); /* granularity */
	aml_le(a, base, width);
	aml_le(a, limit, width);
	aml_le(a, 0, width); /* translation offset */
	aml_le(a, limit - base + 1, width);
}

void
aml_res_bus_window(struct aml *a, uint8_t base, uint8_t limit)
{
	aml_res_window(a, AML_RES_WORD, 2, AML_RES_TYPE_BUS, 0, base, limit);
}

void
aml_res_io_window(struct aml *a, uint16_t base, uint16_t limit)
{
	aml_res_window(a, AML_RES_WORD, 2, AML_RES_TYPE_IO, AML_RES_IO_ENTIRE, base, limit);
}

void
aml_res_mem_window(struct aml *a, uint64_t base, uint64_t limit)
{
	bool wide = limit > UINT32_MAX;

	aml_res_window(a, wide ? AML_RES_QWORD : AML_RES_DWORD, wide ? 8 : 4, AML_RES_TYPE_MEM,
	    AML_RES_MEM_RW, base, limit);
}

/* --- Tables --- */

/* DESCRIPTION_HEADER (5.2.6, table 5.4) */
struct aml_table_header {
	char signature[4];
	uint32_t length;
	uint8_t revision;
	uint8_t checksum;
	char oem_id[6];
	char oem_table_id[8];
	uint32_t oem_revision;
	char creator_id[4];
	uint32_t creator_revision;
};
static_assert(sizeof(struct aml_table_header) == 36, "ACPI 6.4, table 5.4");

void
aml_table(struct aml *a, const char *signature, uint8_t revision)
{
	struct aml_table_header h = {
		.revision = revision,
		.oem_id = { 'B', 'H', 'Y', 'V', 'E', ' ' },
		.oem_table_id = { 'B', 'V', ' ', ' ', ' ', ' ', ' ', ' ' },
		.oem_revision = 1,
		.creator_id = { 'B', 'H', 'Y', 'V' },
		.creator_revision = 1,
	};

	assert(a->len == 0 && strlen(signature) == sizeof(h.signature));
	memcpy(h.signature, signature, sizeof(h.signature));
	memcpy(h.oem_table_id + 2, signature, sizeof(h.signature));
	aml_bytes(a, &h, sizeof(h));
}

void
aml_table_end(struct aml *a)
{
	uint32_t len = (uint32_t)a->len;

	if (a->err != 0)
		return;
	memcpy(a->buf + offsetof(struct aml_table_header, length), &len, sizeof(len));
	a->buf[offsetof(struct aml_table_header, checksum)] = 0;
	a->buf[offsetof(struct aml_table_header, checksum)] = aml_checksum(a->buf, a->len);
}

uint8_t
aml_checksum(const void *p, size_t len)
{
	const uint8_t *byte = p;
	uint8_t sum = 0;

	while (len-- > 0)
		sum = (uint8_t)(sum + *byte++);
	return (uint8_t)-sum;
}
