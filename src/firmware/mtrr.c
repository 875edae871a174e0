/*
 * MTRRs at power-on (SDM 3, 11.11.2).
 */
#include "firmware/mtrr.h"

#include "vm/mem.h"

#define MTRR_UC 0x00ull
#define MTRR_WB 0x06ull
#define MTRR_ALL(type) ((type) * 0x0101010101010101ull) /* eight fixed ranges of one type */

/* IA32_MTRR_DEF_TYPE */
#define MTRR_DEF_FE BIT64(10) /* fixed ranges enabled */
#define MTRR_DEF_E BIT64(11)
/* IA32_MTRR_PHYSMASKn */
#define MTRR_MASK_VALID BIT64(11)

/* Index in mtrr_fixed of the register for 0xa0000 to 0xbffff, IA32_MTRR_FIX16K_A0000 */
#define MTRR_FIXED_VGA 2

void
mtrr_setup(struct x86_state *s, int phys_bits)
{
	for (size_t i = 0; i < ARRAY_SIZE(s->mtrr_fixed); i++)
		s->mtrr_fixed[i] = MTRR_ALL(MTRR_WB);
	s->mtrr_fixed[MTRR_FIXED_VGA] = MTRR_ALL(MTRR_UC);

	/* One pair: the hole, 3 GiB to 4 GiB. */
	static_assert(VM_LOWMEM_MAX == GIB(3), "the hole must be a naturally aligned gigabyte");
	s->mtrr_var[0] = VM_LOWMEM_MAX | MTRR_UC;
	s->mtrr_var[1] = (BIT64(phys_bits) - GIB(1)) | MTRR_MASK_VALID;
	s->mtrr_def_type = MTRR_DEF_E | MTRR_DEF_FE | MTRR_WB;
}
