/*
 * What the decoder (decode.c) and its opcode tables (decode_tables.c) share.
 *
 * An opcode's entry says all that its encoding says. Where that depends on ModRM or on a mandatory
 * prefix, the entry names a group (by ModRM.reg) or the opcode has rows (by ModRM and prefix).
 */
#ifndef BT_DECODE_H
#define BT_DECODE_H

#include "engine/bt/insn.h"

/* Operand size; BT_SZ_B and BT_SZ_W leave the operand size attribute (osize) as it is. */
enum bt_decode_size {
	BT_SZ_V, /* 2, 4, 8: the operand size attribute */
	BT_SZ_B,
	BT_SZ_W,
	BT_SZ_V64, /* as V, but 8 unless prefixed in 64-bit mode: stack operations, near branches */
	BT_SZ_Y, /* 4, or 8 with W */
	BT_SZ_NAT, /* 4, or 8 in 64-bit mode */
	BT_SZ_D, /* 4 at most: MOVSXD's source */
};

enum bt_decode_imm {
	BT_IMM_NONE,
	BT_IMM_1, /* no bytes: the value 1 */
	BT_IMM_SB, /* a byte, sign-extended */
	BT_IMM_UB, /* a byte, zero-extended */
	BT_IMM_UW, /* two bytes, zero-extended */
	BT_IMM_Z, /* 2 or 4 bytes by operand size, sign-extended; branch displacements too */
	BT_IMM_BZ, /* SB or Z by size */
	BT_IMM_V, /* 2, 4 or 8 bytes by operand size */
	BT_IMM_MOFFS, /* 2, 4 or 8 bytes by address size */
	BT_IMM_FAR, /* offset of 2 or 4 bytes by operand size, then a selector */
	BT_IMM_ENTER, /* two bytes, then one */
};

#define BT_DF_MODRM BIT(0)
#define BT_DF_LOCK BIT(1) /* LOCK is allowed when the destination is memory */
#define BT_DF_NO64 BIT(2) /* undefined in 64-bit mode */
#define BT_DF_MEM BIT(3) /* undefined with a register as r/m */
#define BT_DF_OPREG BIT(4) /* reg is in the opcode's low three bits (else it is the accumulator) */
#define BT_DF_GROUP BIT(5) /* id is an enum bt_decode_group; ModRM.reg picks from it */
#define BT_DF_ROWS BIT(6) /* look in the map's rows */

struct bt_opcode {
	uint8_t id, form, size, imm, flags;
};
static_assert(BT_ID_COUNT <= 256, "an id fits in a byte");

/* Groups that many opcodes share or that depend on nothing but ModRM.reg (SDM 2, table A-6). An
 * entry's id replaces the opcode's, its flags are added, its form, size and imm count unless 0. */
enum bt_decode_group {
	BT_GROUP_1, /* ADD to CMP */
	BT_GROUP_1A, /* POP */
	BT_GROUP_2, /* shifts */
	BT_GROUP_3, /* TEST, NOT to IDIV */
	BT_GROUP_4, /* INC, DEC of bytes */
	BT_GROUP_5, /* INC, DEC, CALL, JMP, PUSH */
	BT_GROUP_6, /* SLDT to VERW */
	BT_GROUP_8, /* BT to BTC with an immediate */
	BT_GROUP_11, /* MOV of an immediate */
	BT_GROUP_COUNT,
};

/* One alternative of an opcode that depends on more. The first row that matches counts; none:
 * undefined. */
struct bt_opcode_row {
	uint8_t opcode;
	uint8_t pps; /* bits of enum bt_pp */
	uint8_t mask, value; /* (ModRM & mask) == value */
	struct bt_opcode op;
};

extern const struct bt_opcode bt_decode_map1[256], bt_decode_0f[256];
extern const struct bt_opcode bt_decode_groups[BT_GROUP_COUNT][8];

/* Opcodes with rows: of map 0F, of map 0F 38, and those of VEX that use general registers. Each
 * list ends in a row without pps. */
extern const struct bt_opcode_row bt_decode_rows_0f[], bt_decode_rows_0f38[];
extern const struct bt_opcode_row bt_decode_rows_vex38[], bt_decode_rows_vex3a[];

/* Whether an opcode of maps 0F 38 and 0F 3A is a vector instruction: bit n of word n / 32. */
extern const uint32_t bt_decode_vec_0f38[8], bt_decode_vec_0f3a[8];

#endif
