/*
 * Finds the handler of an integer instruction.
 */
#include "engine/bt/int.h"
#include "engine/bt/vec.h"

/* The vendors' optional instructions: leaf, register and bit of CPUID that offer them. */
static bool
bt_int_offered(struct bt_cpu *cpu, enum bt_id id)
{
	struct x86_cpuid_ctx ctx = { .apic_base = 0 };
	struct x86_cpuid_regs f1, f7;

	switch (id) {
	case BT_ID_MOVBE: case BT_ID_RDRAND: case BT_ID_RDSEED: case BT_ID_ADCX: case BT_ID_ADOX:
	case BT_ID_ANDN: case BT_ID_BEXTR: case BT_ID_BLSI: case BT_ID_BLSMSK: case BT_ID_BLSR:
	case BT_ID_BZHI: case BT_ID_MULX: case BT_ID_PDEP: case BT_ID_PEXT: case BT_ID_RORX:
	case BT_ID_SARX: case BT_ID_SHLX: case BT_ID_SHRX: case BT_ID_CRC32: case BT_ID_POPCNT:
	case BT_ID_MOVDIRI: case BT_ID_MOVDIR64B: case BT_ID_CMPXCHG16B: break;
	default: return true;
	}
	bt_fpu_park(cpu);
	x86_cpuid_query(cpu->vm->cpuid, &ctx, 1, 0, &f1);
	x86_cpuid_query(cpu->vm->cpuid, &ctx, 7, 0, &f7);
	switch (id) {
	case BT_ID_MOVBE: return f1.ecx & BIT(22);
	case BT_ID_RDRAND: return f1.ecx & BIT(30);
	case BT_ID_POPCNT: return f1.ecx & BIT(23);
	case BT_ID_CRC32: return f1.ecx & BIT(20);
	case BT_ID_CMPXCHG16B: return f1.ecx & BIT(13);
	case BT_ID_RDSEED: return f7.ebx & BIT(18);
	case BT_ID_ADCX:
	case BT_ID_ADOX: return f7.ebx & BIT(19);
	case BT_ID_MOVDIRI: return f7.ecx & BIT(27);
	case BT_ID_MOVDIR64B: return f7.ecx & BIT(28);
	case BT_ID_ANDN:
	case BT_ID_BEXTR:
	case BT_ID_BLSI:
	case BT_ID_BLSMSK:
	case BT_ID_BLSR: return f7.ebx & BIT(3);
	default: return f7.ebx & BIT(8);
	}
}

void
bt_int_lower(struct bt_cpu *cpu, const struct bt_insn *in, struct bt_op *op)
{
	/* VEX is protected mode's only (SDM 2, 2.3.3). */
	bool mode_ok = in->encoding == BT_LEGACY || (cpu->pe && !cpu->vm86);

	if (mode_ok && bt_int_offered(cpu, in->id) &&
	    (bt_int_alu_lower(in, op) || bt_int_mov_lower(in, op) || bt_int_flow_lower(in, op) ||
		bt_int_stack_lower(in, op) || bt_int_shift_lower(in, op) ||
		bt_int_bit_lower(in, op) || bt_int_mul_lower(in, op) ||
		bt_int_string_lower(in, op) || bt_int_atomic_lower(in, op)))
		return;
	op->fn = bt_op_ud;
	op->flags |= BT_OP_END;
}
