/*
 * The vector opcodes: what memory and which general registers each touches.
 *
 * SDM 2, appendix A and the instruction pages; memory sizes of EVEX are their tuple types (2.7.5),
 * fault suppression is by exception class (2.8). A row that covers encodings that do not exist does
 * no harm: the host says so when the thunk is tried (vec_impl.h).
 */
#include "engine/bt/vec_impl.h"

#define L BIT(BT_LEGACY)
#define V BIT(BT_VEX)
#define E BIT(BT_EVEX)
#define W0 BT_VE_W0
#define W1 BT_VE_W1

#define P_N BIT(BT_PP_NONE)
#define P_66 BIT(BT_PP_66)
#define P_F3 BIT(BT_PP_F3)
#define P_F2 BIT(BT_PP_F2)
#define P_PSPD (P_N | P_66)

#define A BT_VF_ALIGNED
#define U BT_VF_ANY
#define M BT_VF_MMX
#define K BT_VF_OPMASK
#define RPT BT_VF_REPEAT

#define OPS(first, last, pps, encs, kind, size, elem, flags)                                       \
	{                                                                                          \
		first, last, pps, encs, BT_VK_##kind, BT_VS_##size, BT_VS_##elem, flags            \
	}
#define OP(op, pps, encs, kind, size, elem, flags) OPS(op, op, pps, encs, kind, size, elem, flags)
/* An MMX instruction and its likes on vectors; elem is that of EVEX. */
#define INT(first, last, elem)                                                                     \
	OPS(first, last, P_N, L, LOAD, 8, 0, M),                                                   \
	    OPS(first, last, P_66, L | V | E, LOAD, VL, elem, 0)

/* Rows are in order of opcode; of those that match, the first counts. */
static const struct bt_vec_row bt_vec_rows_0f[] = {
	OPS(0x10, 0x10, P_PSPD, L | V | E, LOAD, VL, DQ, U),
	OP(0x10, P_F3, L | V | E, LOAD, 4, 4, 0),
	OP(0x10, P_F2, L | V | E, LOAD, 8, 8, 0),
	OP(0x11, P_PSPD, L | V | E, STORE, VL, DQ, U),
	OP(0x11, P_F3, L | V | E, STORE, 4, 4, 0),
	OP(0x11, P_F2, L | V | E, STORE, 8, 8, 0),
	OP(0x12, P_PSPD, L | V | E, LOAD, 8, 0, 0), /* MOVLPS, MOVHLPS */
	OP(0x12, P_F3, L | V | E, LOAD, VL, 0, 0),
	OP(0x12, P_F2, L | V | E, LOAD, DUP, 0, 0),
	OP(0x13, P_PSPD, L | V | E, STORE, 8, 0, 0),
	OPS(0x14, 0x15, P_PSPD, L | V | E, LOAD, VL, 0, 0),
	OP(0x16, P_PSPD, L | V | E, LOAD, 8, 0, 0), /* MOVHPS, MOVLHPS */
	OP(0x16, P_F3, L | V | E, LOAD, VL, 0, 0),
	OP(0x17, P_PSPD, L | V | E, STORE, 8, 0, 0),
	OP(0x28, P_PSPD, L | V | E, LOAD, VL, DQ, A),
	OP(0x29, P_PSPD, L | V | E, STORE, VL, DQ, A),
	OP(0x2a, P_PSPD, L, LOAD, 8, 0, 0), /* CVTPI2PS */
	OP(0x2a, P_F3 | P_F2, L | V | E, GPR_SRC, DQ, 0, 0), /* CVTSI2SS */
	OP(0x2b, P_PSPD, L | V | E, STORE, VL, 0, A),
	OPS(0x2c, 0x2d, P_N, L, LOAD, 8, 0, 0), /* CVTPS2PI */
	OPS(0x2c, 0x2d, P_66, L, LOAD, VL, 0, 0),
	OPS(0x2c, 0x2d, P_F3, L | V | E, GPR_REG, 4, 0, 0), /* CVTSS2SI */
	OPS(0x2c, 0x2d, P_F2, L | V | E, GPR_REG, 8, 0, 0),
	OPS(0x2e, 0x2f, P_N, L | V | E, FLAGS, 4, 0, 0),
	OPS(0x2e, 0x2f, P_66, L | V | E, FLAGS, 8, 0, 0),
	OPS(0x41, 0x47, P_PSPD, V, REG, 0, 0, K),
	OPS(0x4a, 0x4b, P_PSPD, V, REG, 0, 0, K),
	OP(0x50, P_PSPD, L | V, GPR_REG, 0, 0, 0), /* MOVMSKPS */
	OP(0x51, P_PSPD, L | V | E, LOAD, VL, DQ, 0),
	OP(0x51, P_F3, L | V | E, LOAD, 4, 4, 0),
	OP(0x51, P_F2, L | V | E, LOAD, 8, 8, 0),
	OPS(0x52, 0x53, P_N, L | V, LOAD, VL, 0, 0),
	OPS(0x52, 0x53, P_F3, L | V, LOAD, 4, 0, 0),
	OPS(0x54, 0x57, P_PSPD, L | V | E, LOAD, VL, DQ, 0),
	OPS(0x58, 0x59, P_PSPD, L | V | E, LOAD, VL, DQ, 0),
	OPS(0x58, 0x59, P_F3, L | V | E, LOAD, 4, 4, 0),
	OPS(0x58, 0x59, P_F2, L | V | E, LOAD, 8, 8, 0),
	OP(0x5a, P_N, L | V | E, LOAD, VL2, 4, 0), /* CVTPS2PD */
	OP(0x5a, P_66, L | V | E, LOAD, VL, 8, 0),
	OP(0x5a, P_F3, L | V | E, LOAD, 4, 4, 0),
	OP(0x5a, P_F2, L | V | E, LOAD, 8, 8, 0),
	OP(0x5b, P_PSPD | P_F3, L | V | E, LOAD, VL, DQ, 0),
	OPS(0x5c, 0x5f, P_PSPD, L | V | E, LOAD, VL, DQ, 0),
	OPS(0x5c, 0x5f, P_F3, L | V | E, LOAD, 4, 4, 0),
	OPS(0x5c, 0x5f, P_F2, L | V | E, LOAD, 8, 8, 0),
	OPS(0x60, 0x62, P_N, L, LOAD, 4, 0, M), /* PUNPCKLBW */
	OPS(0x60, 0x62, P_66, L | V | E, LOAD, VL, 0, 0),
	INT(0x63, 0x63, 0),
	INT(0x64, 0x64, 1),
	INT(0x65, 0x65, 2),
	INT(0x66, 0x66, 4),
	INT(0x67, 0x6b, 0),
	OPS(0x6c, 0x6d, P_66, L | V | E, LOAD, VL, 0, 0),
	OP(0x6e, P_N, L, GPR_SRC, DQ, 0, M), /* MOVD */
	OP(0x6e, P_66, L | V | E, GPR_SRC, DQ, 0, 0),
	OP(0x6f, P_N, L, LOAD, 8, 0, M),
	OP(0x6f, P_66, L | V | E, LOAD, VL, DQ, A),
	OP(0x6f, P_F3, L | V | E, LOAD, VL, DQ, U),
	OP(0x6f, P_F2, E, LOAD, VL, BW, 0),
	OP(0x70, P_N, L, LOAD, 8, 0, M),
	OP(0x70, P_66 | P_F3 | P_F2, L | V | E, LOAD, VL, 0, 0),
	/* Shifts by an immediate; only EVEX takes memory. */
	OPS(0x71, 0x73, P_N, L, REG, 0, 0, M),
	OPS(0x71, 0x73, P_66, L | V, REG, 0, 0, 0),
	OP(0x71, P_66, E, LOAD, VL, 2, 0),
	OP(0x72, P_66, E, LOAD, VL, DQ, 0),
	OP(0x73, P_66, E, LOAD, VL, 8, 0),
	INT(0x74, 0x74, 1),
	INT(0x75, 0x75, 2),
	INT(0x76, 0x76, 4),
	OP(0x77, P_N, L, NONE, 0, 0, M), /* EMMS */
	OP(0x77, P_N, V, NONE, 0, 0, 0), /* VZEROUPPER */
	OPS(0x78, 0x79, P_N, E, LOAD, VL, DQ, 0), /* VCVTPS2UDQ */
	OPS(0x78, 0x7b, P_66, E | W0, LOAD, VL2, 4, 0), /* VCVTPS2UQQ */
	OPS(0x78, 0x7b, P_66, E | W1, LOAD, VL, 8, 0),
	OPS(0x78, 0x79, P_F3, E, GPR_REG, 4, 0, 0), /* VCVTSS2USI */
	OPS(0x78, 0x79, P_F2, E, GPR_REG, 8, 0, 0),
	OP(0x7a, P_F3, E | W0, LOAD, VL2, 4, 0), /* VCVTUDQ2PD */
	OP(0x7a, P_F3, E | W1, LOAD, VL, 8, 0),
	OP(0x7a, P_F2, E, LOAD, VL, DQ, 0),
	OP(0x7b, P_F3 | P_F2, E, GPR_SRC, DQ, 0, 0), /* VCVTUSI2SS */
	OPS(0x7c, 0x7d, P_66 | P_F2, L | V, LOAD, VL, 0, 0),
	OP(0x7e, P_N, L, GPR_DST, DQ, 0, M),
	OP(0x7e, P_66, L | V | E, GPR_DST, DQ, 0, 0),
	OP(0x7e, P_F3, L | V | E, LOAD, 8, 0, 0),
	OP(0x7f, P_N, L, STORE, 8, 0, M),
	OP(0x7f, P_66, L | V | E, STORE, VL, DQ, A),
	OP(0x7f, P_F3, L | V | E, STORE, VL, DQ, U),
	OP(0x7f, P_F2, E, STORE, VL, BW, 0),
	/* KMOV to and from memory and general registers. */
	OP(0x90, P_N, V | W0, LOAD, 2, 0, K),
	OP(0x90, P_N, V | W1, LOAD, 8, 0, K),
	OP(0x90, P_66, V | W0, LOAD, 1, 0, K),
	OP(0x90, P_66, V | W1, LOAD, 4, 0, K),
	OP(0x91, P_N, V | W0, STORE, 2, 0, K),
	OP(0x91, P_N, V | W1, STORE, 8, 0, K),
	OP(0x91, P_66, V | W0, STORE, 1, 0, K),
	OP(0x91, P_66, V | W1, STORE, 4, 0, K),
	OP(0x92, P_PSPD | P_F2, V, GPR_SRC, 0, 0, K),
	OP(0x93, P_PSPD | P_F2, V, GPR_REG, 0, 0, K),
	OPS(0x98, 0x99, P_PSPD, V, FLAGS, 0, 0, K), /* KORTEST, KTEST */
	OP(0xae, P_N, V, MXCSR, 4, 0, 0),
	OP(0xc2, P_PSPD, L | V | E, LOAD, VL, DQ, 0),
	OP(0xc2, P_F3, L | V | E, LOAD, 4, 4, 0),
	OP(0xc2, P_F2, L | V | E, LOAD, 8, 8, 0),
	OP(0xc4, P_N, L, GPR_SRC, 2, 0, M), /* PINSRW */
	OP(0xc4, P_66, L | V | E, GPR_SRC, 2, 0, 0),
	OP(0xc5, P_N, L, GPR_REG, 0, 0, M), /* PEXTRW */
	OP(0xc5, P_66, L | V | E, GPR_REG, 0, 0, 0),
	OP(0xc6, P_PSPD, L | V | E, LOAD, VL, 0, 0),
	OP(0xd0, P_66 | P_F2, L | V, LOAD, VL, 0, 0),
	OPS(0xd1, 0xd3, P_N, L, LOAD, 8, 0, M), /* shifts by a count in a register */
	OPS(0xd1, 0xd3, P_66, L | V | E, LOAD, 16, 0, 0),
	INT(0xd4, 0xd4, 8),
	INT(0xd5, 0xd5, 2),
	OP(0xd6, P_66, L | V | E, STORE, 8, 0, 0),
	OP(0xd6, P_F3 | P_F2, L, REG, 0, 0, 0), /* MOVQ2DQ, MOVDQ2Q */
	OP(0xd7, P_N, L, GPR_REG, 0, 0, M), /* PMOVMSKB */
	OP(0xd7, P_66, L | V, GPR_REG, 0, 0, 0),
	INT(0xd8, 0xd8, 1),
	INT(0xd9, 0xd9, 2),
	INT(0xda, 0xda, 1),
	INT(0xdb, 0xdb, DQ),
	INT(0xdc, 0xdc, 1),
	INT(0xdd, 0xdd, 2),
	INT(0xde, 0xde, 1),
	INT(0xdf, 0xdf, DQ),
	INT(0xe0, 0xe0, 1),
	OPS(0xe1, 0xe2, P_N, L, LOAD, 8, 0, M),
	OPS(0xe1, 0xe2, P_66, L | V | E, LOAD, 16, 0, 0),
	INT(0xe3, 0xe5, 2),
	OP(0xe6, P_66 | P_F2, L | V | E, LOAD, VL, 8, 0), /* CVTPD2DQ */
	OP(0xe6, P_F3, E | W1, LOAD, VL, 8, 0),
	OP(0xe6, P_F3, L | V | E, LOAD, VL2, 4, 0), /* CVTDQ2PD */
	OP(0xe7, P_N, L, STORE, 8, 0, M),
	OP(0xe7, P_66, L | V | E, STORE, VL, 0, A),
	INT(0xe8, 0xe8, 1),
	INT(0xe9, 0xea, 2),
	INT(0xeb, 0xeb, DQ),
	INT(0xec, 0xec, 1),
	INT(0xed, 0xed, 2),
	INT(0xee, 0xee, 2),
	INT(0xef, 0xef, DQ),
	OP(0xf0, P_F2, L | V, LOAD, VL, 0, U), /* LDDQU */
	OPS(0xf1, 0xf3, P_N, L, LOAD, 8, 0, M),
	OPS(0xf1, 0xf3, P_66, L | V | E, LOAD, 16, 0, 0),
	INT(0xf4, 0xf4, 8),
	INT(0xf5, 0xf6, 0),
	OP(0xf7, P_N, L, MASKMOV, 8, 0, M),
	OP(0xf7, P_66, L | V, MASKMOV, 16, 0, U),
	INT(0xf8, 0xf8, 1),
	INT(0xf9, 0xf9, 2),
	INT(0xfa, 0xfa, 4),
	INT(0xfb, 0xfb, 8),
	INT(0xfc, 0xfc, 1),
	INT(0xfd, 0xfd, 2),
	INT(0xfe, 0xfe, 4),
};

static const struct bt_vec_row bt_vec_rows_0f38[] = {
	INT(0x00, 0x0a, 0),
	INT(0x0b, 0x0b, 2),
	OPS(0x0c, 0x0d, P_66, V | E, LOAD, VL, 0, 0), /* VPERMILPS */
	OPS(0x0e, 0x0f, P_66, V, FLAGS, VL, 0, 0), /* VTESTPS */
	OP(0x10, P_66, L, LOAD, VL, 0, 0), /* PBLENDVB */
	OPS(0x10, 0x12, P_66, E, LOAD, VL, 2, 0), /* VPSRLVW */
	OP(0x10, P_F3, E, STORE, VL2, 1, 0), /* VPMOVUSWB */
	OP(0x11, P_F3, E, STORE, VL4, 1, 0),
	OP(0x12, P_F3, E, STORE, VL8, 1, 0),
	OP(0x13, P_66, V | E, LOAD, VL2, 2, 0), /* VCVTPH2PS */
	OP(0x13, P_F3, E, STORE, VL2, 2, 0),
	OPS(0x14, 0x15, P_66, L, LOAD, VL, 0, 0), /* BLENDVPS */
	OPS(0x14, 0x15, P_66, E, LOAD, VL, DQ, 0), /* VPRORVD */
	OP(0x14, P_F3, E, STORE, VL4, 2, 0),
	OP(0x15, P_F3, E, STORE, VL2, 4, 0),
	OP(0x16, P_66, V | E, LOAD, VL, 0, 0), /* VPERMPS */
	OP(0x17, P_66, L | V, FLAGS, VL, 0, 0), /* PTEST */
	OP(0x18, P_66, V | E, LOAD, 4, 4, RPT), /* VBROADCASTSS */
	OP(0x19, P_66, V | E, LOAD, 8, DQ, RPT),
	OP(0x1a, P_66, V | E, LOAD, 16, DQ, RPT),
	OP(0x1b, P_66, E, LOAD, 32, DQ, RPT),
	INT(0x1c, 0x1c, 1),
	INT(0x1d, 0x1d, 2),
	INT(0x1e, 0x1e, 4),
	OP(0x1f, P_66, E, LOAD, VL, 8, 0),
	OP(0x20, P_66, L | V | E, LOAD, VL2, 1, 0), /* PMOVSXBW */
	OP(0x21, P_66, L | V | E, LOAD, VL4, 1, 0),
	OP(0x22, P_66, L | V | E, LOAD, VL8, 1, 0),
	OP(0x23, P_66, L | V | E, LOAD, VL2, 2, 0),
	OP(0x24, P_66, L | V | E, LOAD, VL4, 2, 0),
	OP(0x25, P_66, L | V | E, LOAD, VL2, 4, 0),
	OP(0x20, P_F3, E, STORE, VL2, 1, 0), /* VPMOVSWB */
	OP(0x21, P_F3, E, STORE, VL4, 1, 0),
	OP(0x22, P_F3, E, STORE, VL8, 1, 0),
	OP(0x23, P_F3, E, STORE, VL2, 2, 0),
	OP(0x24, P_F3, E, STORE, VL4, 2, 0),
	OP(0x25, P_F3, E, STORE, VL2, 4, 0),
	OP(0x26, P_66 | P_F3, E, LOAD, VL, BW, 0), /* VPTESTMB */
	OP(0x27, P_66 | P_F3, E, LOAD, VL, DQ, 0),
	OP(0x28, P_66, L | V | E, LOAD, VL, 8, 0), /* PMULDQ */
	OPS(0x28, 0x29, P_F3, E, REG, 0, 0, 0), /* VPMOVM2B */
	OP(0x29, P_66, L | V | E, LOAD, VL, 8, 0),
	OP(0x2a, P_66, L | V | E, LOAD, VL, 0, A),
	OP(0x2a, P_F3, E, REG, 0, 0, 0),
	OP(0x2b, P_66, L | V | E, LOAD, VL, 0, 0),
	OP(0x2c, P_66, V, VMASK_LOAD, VL, 4, 0),
	OP(0x2c, P_66, E, LOAD, VL, DQ, 0), /* VSCALEFPS */
	OP(0x2d, P_66, V, VMASK_LOAD, VL, 8, 0),
	OP(0x2d, P_66, E, LOAD, DQ, DQ, 0),
	OP(0x2e, P_66, V, VMASK_STORE, VL, 4, 0),
	OP(0x2f, P_66, V, VMASK_STORE, VL, 8, 0),
	OP(0x30, P_66, L | V | E, LOAD, VL2, 1, 0), /* PMOVZXBW */
	OP(0x31, P_66, L | V | E, LOAD, VL4, 1, 0),
	OP(0x32, P_66, L | V | E, LOAD, VL8, 1, 0),
	OP(0x33, P_66, L | V | E, LOAD, VL2, 2, 0),
	OP(0x34, P_66, L | V | E, LOAD, VL4, 2, 0),
	OP(0x35, P_66, L | V | E, LOAD, VL2, 4, 0),
	OP(0x30, P_F3, E, STORE, VL2, 1, 0), /* VPMOVWB */
	OP(0x31, P_F3, E, STORE, VL4, 1, 0),
	OP(0x32, P_F3, E, STORE, VL8, 1, 0),
	OP(0x33, P_F3, E, STORE, VL2, 2, 0),
	OP(0x34, P_F3, E, STORE, VL4, 2, 0),
	OP(0x35, P_F3, E, STORE, VL2, 4, 0),
	OP(0x36, P_66, V | E, LOAD, VL, 0, 0), /* VPERMD */
	OP(0x37, P_66, L | V | E, LOAD, VL, 8, 0),
	OP(0x38, P_66, L | V | E, LOAD, VL, 1, 0), /* PMINSB */
	OPS(0x38, 0x3a, P_F3, E, REG, 0, 0, 0), /* VPMOVM2D */
	OP(0x39, P_66, L | V | E, LOAD, VL, DQ, 0),
	OP(0x3a, P_66, L | V | E, LOAD, VL, 2, 0),
	OP(0x3b, P_66, L | V | E, LOAD, VL, DQ, 0),
	OP(0x3c, P_66, L | V | E, LOAD, VL, 1, 0),
	OP(0x3d, P_66, L | V | E, LOAD, VL, DQ, 0),
	OP(0x3e, P_66, L | V | E, LOAD, VL, 2, 0),
	OP(0x3f, P_66, L | V | E, LOAD, VL, DQ, 0),
	OP(0x40, P_66, L | V | E, LOAD, VL, DQ, 0),
	OP(0x41, P_66, L | V, LOAD, VL, 0, 0),
	OP(0x42, P_66, E, LOAD, VL, DQ, 0), /* VGETEXPPS */
	OP(0x43, P_66, E, LOAD, DQ, DQ, 0),
	OP(0x44, P_66, E, LOAD, VL, DQ, 0),
	OPS(0x45, 0x47, P_66, V | E, LOAD, VL, DQ, 0), /* VPSRLVD */
	OP(0x4c, P_66, E, LOAD, VL, DQ, 0), /* VRCP14PS */
	OP(0x4d, P_66, E, LOAD, DQ, DQ, 0),
	OP(0x4e, P_66, E, LOAD, VL, DQ, 0),
	OP(0x4f, P_66, E, LOAD, DQ, DQ, 0),
	OPS(0x50, 0x53, P_66, V | E, LOAD, VL, 4, 0), /* VPDPBUSD */
	OP(0x52, P_F3, E, LOAD, VL, 4, 0), /* VDPBF16PS */
	OP(0x54, P_66, E, LOAD, VL, BW, 0), /* VPOPCNTB */
	OP(0x55, P_66, E, LOAD, VL, DQ, 0),
	OP(0x58, P_66, V | E, LOAD, 4, 4, RPT), /* VPBROADCASTD */
	OP(0x59, P_66, V | E, LOAD, 8, DQ, RPT),
	OP(0x5a, P_66, V | E, LOAD, 16, DQ, RPT),
	OP(0x5b, P_66, E, LOAD, 32, DQ, RPT),
	OP(0x62, P_66, E, EXPAND, VL, BW, 0),
	OP(0x63, P_66, E, COMPRESS, VL, BW, 0),
	OPS(0x64, 0x65, P_66, E, LOAD, VL, DQ, 0), /* VPBLENDMD */
	OP(0x66, P_66, E, LOAD, VL, BW, 0),
	OP(0x68, P_F2, E, LOAD, VL, 0, 0), /* VP2INTERSECTD */
	OP(0x70, P_66, E, LOAD, VL, 2, 0), /* VPSHLDVW */
	OP(0x71, P_66, E, LOAD, VL, DQ, 0),
	OP(0x72, P_66, E, LOAD, VL, 2, 0),
	OP(0x72, P_F3, E, LOAD, VL, 4, 0), /* VCVTNEPS2BF16 */
	OP(0x72, P_F2, E, LOAD, VL, 0, 0), /* VCVTNE2PS2BF16 */
	OP(0x73, P_66, E, LOAD, VL, DQ, 0),
	OPS(0x75, 0x77, P_66, E, LOAD, VL, 0, 0), /* VPERMI2B */
	OP(0x78, P_66, V | E, LOAD, 1, 1, RPT),
	OP(0x79, P_66, V | E, LOAD, 2, 2, RPT),
	OPS(0x7a, 0x7c, P_66, E, GPR_SRC, 0, 0, 0), /* VPBROADCASTB from a general register */
	OPS(0x7d, 0x7f, P_66, E, LOAD, VL, 0, 0),
	OP(0x83, P_66, E, LOAD, VL, 0, 0), /* VPMULTISHIFTQB */
	OPS(0x88, 0x89, P_66, E, EXPAND, VL, DQ, 0),
	OPS(0x8a, 0x8b, P_66, E, COMPRESS, VL, DQ, 0),
	OP(0x8c, P_66, V, VMASK_LOAD, VL, DQ, 0),
	OP(0x8d, P_66, E, LOAD, VL, 0, 0), /* VPERMB */
	OP(0x8e, P_66, V, VMASK_STORE, VL, DQ, 0),
	OP(0x8f, P_66, E, LOAD, VL, 1, 0), /* VPSHUFBITQMB */
	OPS(0x90, 0x93, P_66, V | E, GATHER, DQ, 0, 0),
	OPS(0x96, 0x98, P_66, V | E, LOAD, VL, DQ, 0), /* FMA */
	OP(0x99, P_66, V | E, LOAD, DQ, DQ, 0),
	OP(0x9a, P_66, V | E, LOAD, VL, DQ, 0),
	OP(0x9b, P_66, V | E, LOAD, DQ, DQ, 0),
	OP(0x9c, P_66, V | E, LOAD, VL, DQ, 0),
	OP(0x9d, P_66, V | E, LOAD, DQ, DQ, 0),
	OP(0x9e, P_66, V | E, LOAD, VL, DQ, 0),
	OP(0x9f, P_66, V | E, LOAD, DQ, DQ, 0),
	OPS(0xa0, 0xa3, P_66, E, SCATTER, DQ, 0, 0),
	OPS(0xa6, 0xa8, P_66, V | E, LOAD, VL, DQ, 0),
	OP(0xa9, P_66, V | E, LOAD, DQ, DQ, 0),
	OP(0xaa, P_66, V | E, LOAD, VL, DQ, 0),
	OP(0xab, P_66, V | E, LOAD, DQ, DQ, 0),
	OP(0xac, P_66, V | E, LOAD, VL, DQ, 0),
	OP(0xad, P_66, V | E, LOAD, DQ, DQ, 0),
	OP(0xae, P_66, V | E, LOAD, VL, DQ, 0),
	OP(0xaf, P_66, V | E, LOAD, DQ, DQ, 0),
	OPS(0xb4, 0xb5, P_66, V | E, LOAD, VL, 8, 0), /* VPMADD52LUQ */
	OPS(0xb6, 0xb8, P_66, V | E, LOAD, VL, DQ, 0),
	OP(0xb9, P_66, V | E, LOAD, DQ, DQ, 0),
	OP(0xba, P_66, V | E, LOAD, VL, DQ, 0),
	OP(0xbb, P_66, V | E, LOAD, DQ, DQ, 0),
	OP(0xbc, P_66, V | E, LOAD, VL, DQ, 0),
	OP(0xbd, P_66, V | E, LOAD, DQ, DQ, 0),
	OP(0xbe, P_66, V | E, LOAD, VL, DQ, 0),
	OP(0xbf, P_66, V | E, LOAD, DQ, DQ, 0),
	OP(0xc4, P_66, E, LOAD, VL, 0, 0), /* VPCONFLICTD */
	OPS(0xc8, 0xcd, P_N, L, LOAD, VL, 0, BT_VF_SHA),
	OP(0xcf, P_66, L | V | E, LOAD, VL, 1, 0), /* GF2P8MULB */
	OPS(0xdb, 0xdf, P_66, L | V | E, LOAD, VL, 0, 0), /* AES */
};

static const struct bt_vec_row bt_vec_rows_0f3a[] = {
	OPS(0x00, 0x06, P_66, V | E, LOAD, VL, 0, 0), /* VPERMQ, VPBLENDD, VALIGND, VPERMILPS */
	OP(0x08, P_66, L | V | E, LOAD, VL, 4, 0), /* ROUNDPS */
	OP(0x09, P_66, L | V | E, LOAD, VL, 8, 0),
	OP(0x0a, P_66, L | V | E, LOAD, 4, 4, 0),
	OP(0x0b, P_66, L | V | E, LOAD, 8, 8, 0),
	OPS(0x0c, 0x0e, P_66, L | V, LOAD, VL, 0, 0), /* BLENDPS */
	INT(0x0f, 0x0f, 0),
	OP(0x14, P_66, L | V | E, GPR_DST, 1, 0, 0), /* PEXTRB */
	OP(0x15, P_66, L | V | E, GPR_DST, 2, 0, 0),
	OP(0x16, P_66, L | V | E, GPR_DST, DQ, 0, 0),
	OP(0x17, P_66, L | V | E, GPR_DST, 4, 0, 0),
	OP(0x18, P_66, V | E, LOAD, 16, 0, 0), /* VINSERTF128 */
	OP(0x19, P_66, V | E, STORE, 16, 0, 0),
	OP(0x1a, P_66, E, LOAD, 32, 0, 0),
	OP(0x1b, P_66, E, STORE, 32, 0, 0),
	OP(0x1d, P_66, V | E, STORE, VL2, 2, 0), /* VCVTPS2PH */
	OPS(0x1e, 0x1f, P_66, E, LOAD, VL, DQ, 0), /* VPCMPUD */
	OP(0x20, P_66, L | V | E, GPR_SRC, 1, 0, 0), /* PINSRB */
	OP(0x21, P_66, L | V | E, LOAD, 4, 0, 0), /* INSERTPS */
	OP(0x22, P_66, L | V | E, GPR_SRC, DQ, 0, 0),
	OP(0x23, P_66, E, LOAD, VL, 0, 0), /* VSHUFF32X4 */
	OP(0x25, P_66, E, LOAD, VL, DQ, 0), /* VPTERNLOGD */
	OP(0x26, P_66, E, LOAD, VL, DQ, 0), /* VGETMANTPS */
	OP(0x27, P_66, E, LOAD, DQ, DQ, 0),
	OPS(0x30, 0x33, P_66, V, REG, 0, 0, K), /* KSHIFTR */
	OP(0x38, P_66, V | E, LOAD, 16, 0, 0), /* VINSERTI128 */
	OP(0x39, P_66, V | E, STORE, 16, 0, 0),
	OP(0x3a, P_66, E, LOAD, 32, 0, 0),
	OP(0x3b, P_66, E, STORE, 32, 0, 0),
	OPS(0x3e, 0x3f, P_66, E, LOAD, VL, BW, 0), /* VPCMPUB */
	OPS(0x40, 0x41, P_66, L | V, LOAD, VL, 0, 0), /* DPPS */
	OP(0x42, P_66, L | V | E, LOAD, VL, 0, 0), /* MPSADBW, VDBPSADBW */
	OP(0x43, P_66, E, LOAD, VL, 0, 0),
	OP(0x44, P_66, L | V | E, LOAD, VL, 0, 0), /* PCLMULQDQ */
	OP(0x46, P_66, V, LOAD, VL, 0, 0),
	OPS(0x4a, 0x4c, P_66, V, LOAD, VL, 0, 0), /* VBLENDVPS */
	OP(0x50, P_66, E, LOAD, VL, DQ, 0), /* VRANGEPS */
	OP(0x51, P_66, E, LOAD, DQ, DQ, 0),
	OP(0x54, P_66, E, LOAD, VL, DQ, 0), /* VFIXUPIMMPS */
	OP(0x55, P_66, E, LOAD, DQ, DQ, 0),
	OP(0x56, P_66, E, LOAD, VL, DQ, 0), /* VREDUCEPS */
	OP(0x57, P_66, E, LOAD, DQ, DQ, 0),
	OPS(0x60, 0x60, P_66, L | V, PCMPSTRM, 16, 0, U),
	OPS(0x61, 0x61, P_66, L | V, PCMPSTRI, 16, 0, U),
	OPS(0x62, 0x62, P_66, L | V, PCMPSTRM, 16, 0, U),
	OPS(0x63, 0x63, P_66, L | V, PCMPSTRI, 16, 0, U),
	OP(0x66, P_66, E, LOAD, VL, DQ, 0), /* VFPCLASSPS */
	OP(0x67, P_66, E, LOAD, DQ, DQ, 0),
	OP(0x70, P_66, E, LOAD, VL, 2, 0), /* VPSHLDW */
	OP(0x71, P_66, E, LOAD, VL, DQ, 0),
	OP(0x72, P_66, E, LOAD, VL, 2, 0),
	OP(0x73, P_66, E, LOAD, VL, DQ, 0),
	OP(0xcc, P_N, L, LOAD, VL, 0, BT_VF_SHA), /* SHA1RNDS4 */
	OPS(0xce, 0xcf, P_66, L | V | E, LOAD, VL, 0, 0), /* GF2P8AFFINEQB */
	OP(0xdf, P_66, L | V, LOAD, VL, 0, 0), /* AESKEYGENASSIST */
};

static bool
bt_vec_row_matches(const struct bt_vec_row *row, const struct bt_insn *in)
{
	if (in->opcode < row->first || in->opcode > row->last || !(row->pps & BIT(in->pp)) ||
	    !(row->encs & BIT(in->encoding)))
		return false;
	if (row->encs & (BT_VE_W0 | BT_VE_W1))
		return row->encs & (in->w ? BT_VE_W1 : BT_VE_W0);
	return true;
}

const struct bt_vec_row *
bt_vec_row(const struct bt_insn *in)
{
	static const struct {
		const struct bt_vec_row *rows;
		size_t count;
	} maps[] = {
		[BT_MAP_0F] = { bt_vec_rows_0f, ARRAY_SIZE(bt_vec_rows_0f) },
		[BT_MAP_0F38] = { bt_vec_rows_0f38, ARRAY_SIZE(bt_vec_rows_0f38) },
		[BT_MAP_0F3A] = { bt_vec_rows_0f3a, ARRAY_SIZE(bt_vec_rows_0f3a) },
	};

	if (in->map >= ARRAY_SIZE(maps))
		return NULL;
	for (size_t i = 0; i < maps[in->map].count; i++) {
		if (bt_vec_row_matches(&maps[in->map].rows[i], in))
			return &maps[in->map].rows[i];
	}
	return NULL;
}

unsigned
bt_vec_size_bytes(enum bt_vec_size size, const struct bt_insn *in, bool w)
{
	unsigned vl = in->encoding == BT_LEGACY ? 16 : 16u << in->vl;

	switch (size) {
	case BT_VS_0: return 0;
	case BT_VS_1: return 1;
	case BT_VS_2: return 2;
	case BT_VS_4: return 4;
	case BT_VS_8: return 8;
	case BT_VS_16: return 16;
	case BT_VS_32: return 32;
	case BT_VS_BW: return w ? 2 : 1;
	case BT_VS_DQ: return w ? 8 : 4;
	case BT_VS_VL: return vl;
	case BT_VS_VL2: return vl / 2;
	case BT_VS_VL4: return vl / 4;
	case BT_VS_VL8: return vl / 8;
	case BT_VS_DUP: return vl == 16 ? 8 : vl;
	}
	return 0;
}
