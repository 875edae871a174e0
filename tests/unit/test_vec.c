/*
 * The vector unit against this host's processor: every encoding of every vector opcode, each with
 * operands in registers, in memory, at the very end of a page, across pages and where they fault.
 */
#include "vec_pair.h"

/* What to encode. Registers are numbers; mem says that r/m is (%rbx). */
struct vec_form {
	uint8_t encoding, map, opcode, pp, w, vl, reg, rm, vvvv, aaa, z, b, imm;
	bool mem;
};

static unsigned
vec_encode(const struct vec_form *f, uint8_t *out)
{
	static const uint8_t pps[] = { 0, 0x66, 0xf3, 0xf2 };
	uint8_t *p = out;

	if (f->encoding == BT_LEGACY) {
		if (f->pp != 0)
			*p++ = pps[f->pp];
		*p++ = (uint8_t)(0x40 | f->w << 3 | (f->reg >> 3 & 1) << 2 |
				 (f->mem ? 0 : f->rm >> 3 & 1));
		*p++ = 0x0f;
		if (f->map != BT_MAP_0F)
			*p++ = f->map == BT_MAP_0F38 ? 0x38 : 0x3a;
	} else {
		uint8_t p0 =
		    (uint8_t)((f->reg & 8 ? 0 : 0x80) | (!f->mem && (f->rm & 16) ? 0 : 0x40) |
			      (!f->mem && (f->rm & 8) ? 0 : 0x20) | f->map);
		uint8_t p1 = (uint8_t)(f->w << 7 | (~f->vvvv & 15) << 3 | f->pp);

		if (f->encoding == BT_VEX) {
			*p++ = 0xc4;
			*p++ = p0 | (f->mem ? 0x40 : 0);
			*p++ = p1 | (uint8_t)(f->vl << 2);
		} else {
			*p++ = 0x62;
			*p++ = p0 | (f->reg & 16 ? 0 : 0x10);
			*p++ = p1 | 4;
			*p++ = (uint8_t)(f->z << 7 | f->vl << 5 | f->b << 4 |
					 (f->vvvv & 16 ? 0 : 8) | f->aaa);
		}
	}
	*p++ = f->opcode;
	*p++ = (uint8_t)((f->mem ? 3 : 0xc0 | (f->rm & 7)) | (f->reg & 7) << 3);
	*p++ = f->imm; /* where there is no immediate, this is left out below */
	return (unsigned)(p - out);
}

/* Decodes it as the engine will; the length without the immediate if it has none. False: not a
 * vector instruction. */
static bool
vec_decode(uint8_t *bytes, unsigned *len, struct bt_insn *in)
{
	if (bt_decode(bytes, *len, 8, in) != 0 || (in->id != BT_ID_VEC && in->id != BT_ID_UD))
		return false;
	if (in->id == BT_ID_VEC)
		*len = in->len;
	return true;
}

/* Registers the harness needs, and those whose values would be addresses. */
static bool
vec_usable(const struct bt_insn *in, const struct bt_vec_row *row)
{
	bool gpr_rm = row->kind == BT_VK_GPR_SRC || row->kind == BT_VK_GPR_DST;
	unsigned rm = in->rm & 15, reg = in->reg & 15;

	if (gpr_rm && in->mod == 3 && (rm == X86_RSP || rm == X86_R15))
		return false;
	if (row->kind == BT_VK_GPR_REG && (reg == X86_RSP || reg == X86_R15))
		return false;
	return row->kind != BT_VK_MASKMOV && row->kind != BT_VK_MXCSR;
}

struct vec_sweep {
	struct pair *p;
	unsigned failed, tried, defined;
	unsigned missing; /* defined by the host, not in the table */
};

static void
vec_try(struct vec_sweep *s, const uint8_t *bytes, unsigned len)
{
	if (s->failed >= 20)
		return;
	if (!pair_run(s->p, bytes, len))
		s->failed++;
}

/* Instructions of AMD's that are not offered: SSE4a. */
static bool
vec_not_offered(const struct vec_form *f)
{
	return f->encoding == BT_LEGACY && f->map == BT_MAP_0F &&
	       (f->opcode == 0x78 || f->opcode == 0x79 || f->opcode == 0x2b);
}

/* AMD's processors take SHA's memory operands at any address, Intel's manual wants them aligned. */
static bool
vec_is_sha(const struct vec_form *f)
{
	return f->encoding == BT_LEGACY &&
	       ((f->map == BT_MAP_0F38 && f->opcode >= 0xc8 && f->opcode <= 0xcd) ||
		   (f->map == BT_MAP_0F3A && f->opcode == 0xcc));
}

/* Groups of map 0F that are no vector instructions, or not altogether. */
static bool
vec_is_system(const struct vec_form *f)
{
	return f->encoding == BT_LEGACY && f->map == BT_MAP_0F &&
	       (f->opcode < 0x10 || f->opcode == 0xae || f->opcode == 0xc7);
}

/* An opcode that is not in the table has to be undefined. */
static void
vec_try_unknown(struct vec_sweep *s, const struct vec_form *f, const uint8_t *bytes, unsigned len)
{
	struct pair *p = s->p;

	p->in.gpr[X86_RBX] = PAIR_FIRST + 0x800;
	pair_run_native(p, bytes, len);
	if (p->native.vector == X86_UD || vec_not_offered(f))
		return;
	s->missing++;
	print_error("not in the table: enc %d map %d op %02x pp %d w %d l %d mem %d: vector %d\n",
	    f->encoding, f->map, f->opcode, f->pp, f->w, f->vl, f->mem, p->native.vector);
}

/* One encoding, with its operands at all the places that matter. */
static void
vec_try_form(struct vec_sweep *s, const struct vec_form *f)
{
	struct pair *p = s->p;
	const struct bt_vec_row *row;
	uint8_t bytes[16];
	unsigned len = vec_encode(f, bytes), size;
	struct bt_insn in;

	if (!vec_decode(bytes, &len, &in))
		return;
	s->tried++;
	row = in.id == BT_ID_VEC ? bt_vec_row(&in) : NULL;
	pair_randomize(p);
	if (row == NULL && vec_is_system(f))
		return;
	if (row == NULL) {
		vec_try_unknown(s, f, bytes, len);
		return;
	}
	if (!vec_usable(&in, row))
		return;
	size = bt_vec_size_bytes(row->size, &in, in.w);
	if (in.encoding == BT_EVEX && in.evex_b)
		size = in.w ? 8 : 4;
	for (int i = 1; i < 8 && f->aaa != 0; i++)
		if (pair_random(p) % 4 == 0)
			pair_set_opmask(p, i, 0);
	p->in.gpr[X86_RBX] = PAIR_FIRST + 0x400;
	vec_try(s, bytes, len);
	if (p->native.vector != X86_UD)
		s->defined++;
	if (!f->mem || p->native.vector == X86_UD || vec_is_sha(f))
		return;
	p->in.gpr[X86_RBX] = PAIR_END - size; /* to the end of the last page */
	vec_try(s, bytes, len);
	p->in.gpr[X86_RBX] = PAIR_END - size + 1;
	vec_try(s, bytes, len);
	p->in.gpr[X86_RBX] = PAIR_FIRST + 0x1000 - size / 2; /* across pages */
	vec_try(s, bytes, len);
	p->in.gpr[X86_RBX] = PAIR_RO - size / 2; /* of which one may not be written */
	vec_try(s, bytes, len);
	p->in.gpr[X86_RBX] = PAIR_FIRST - size / 2; /* from the hole into the first page */
	vec_try(s, bytes, len);
}

static void
vec_sweep_forms(struct vec_sweep *s, struct vec_form f, int masks)
{
	struct pair *p = s->p;
	bool evex = f.encoding == BT_EVEX;

	for (int i = 0; i < (masks ? 4 : 1); i++) {
		for (f.pp = 0; f.pp < 4; f.pp++) {
			for (unsigned wl = 0; wl < (evex                      ? 8u
						       : f.encoding == BT_VEX ? 4u
									      : 2u);
			     wl++) {
				uint64_t r = pair_random(p);

				f.w = wl & 1;
				f.vl = (uint8_t)(wl >> 1);
				f.reg = r & (evex ? 31 : 15);
				f.rm = (r >> 8) & (evex ? 31 : 15);
				f.imm = (uint8_t)(r >> 16);
				f.vvvv = (r >> 24) & (evex ? 31 : 15);
				if ((r >> 32) % 2)
					f.vvvv = 0;
				if ((r >> 33) % 2)
					f.reg &= 7;
				if ((r >> 34) % 2)
					f.rm &= 7;
				f.aaa = masks ? 1 + (r >> 40) % 7 : 0;
				f.z = masks && (r >> 43) % 2;
				f.b = evex && (r >> 44) % 4 == 0;
				vec_try_form(s, &f);
			}
		}
	}
}

static void
vec_sweep(struct vec_sweep *s, uint8_t encoding, int masks, int rounds)
{
	s->p = pair_create();
	for (int round = 0; round < rounds; round++) {
		for (uint8_t map = BT_MAP_0F; map <= BT_MAP_0F3A; map++) {
			for (unsigned op = 0; op < 256; op++) {
				struct vec_form f = {
					.encoding = encoding, .map = map, .opcode = (uint8_t)op
				};

				vec_sweep_forms(s, f, masks);
				f.mem = true;
				vec_sweep_forms(s, f, masks);
			}
		}
	}
	print_message("%u encodings tried, %u defined; %llu runs, %llu faults\n", s->tried,
	    s->defined, (unsigned long long)s->p->runs, (unsigned long long)s->p->faults);
	pair_destroy(s->p);
	assert_int_equal(s->failed, 0);
	assert_int_equal(s->missing, 0);
}

static void
test_vec_legacy(void **state)
{
	struct vec_sweep s = { 0 };

	vec_sweep(&s, BT_LEGACY, 0, 2);
}

static void
test_vec_vex(void **state)
{
	struct vec_sweep s = { 0 };

	vec_sweep(&s, BT_VEX, 0, 2);
}

static void
test_vec_evex(void **state)
{
	struct vec_sweep s = { 0 };

	vec_sweep(&s, BT_EVEX, 0, 2);
}

static void
test_vec_evex_masked(void **state)
{
	struct vec_sweep s = { 0 };

	vec_sweep(&s, BT_EVEX, 1, 1);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_vec_legacy),
		cmocka_unit_test(test_vec_vex),
		cmocka_unit_test(test_vec_evex),
		cmocka_unit_test(test_vec_evex_masked),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
