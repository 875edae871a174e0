/*
 * Events: exceptions, interrupts, software interrupts, and task switches (SDM 3, chapters 6 and 7).
 *
 * An instruction that raises an exception calls bt_raise*() (bt.h); the run loop then delivers it. INT n
 * and its kin are delivered by their own handlers, through bt_int_soft(). Only the run loop uses the
 * rest.
 */
#ifndef BT_EXC_H
#define BT_EXC_H

#include "engine/bt/bt.h"

/*
 * INT n (BT_EVENT_SOFT_INT), INT3 and INTO (BT_EVENT_SOFT_EXC) and INT1 (BT_EVENT_INT1), called by their
 * handlers with RIP at the next instruction; the op must be flagged BT_OP_END and does nothing more
 * afterwards. Checks the gate's DPL and, for INT n in virtual-8086 mode, IOPL. A fault on the way is
 * raised like any other instruction's.
 */
void bt_int_soft(struct bt_cpu *cpu, uint8_t vector, enum bt_event_kind kind);

/*
 * Delivers cpu->event, and the faults that come of it up to a triple fault, which leaves
 * cpu->activity at X86_SHUTDOWN. A fault on the way leaves by longjmp with cpu->event still set: the
 * run loop hands it to bt_event_fault() and calls again.
 */
void bt_event_deliver(struct bt_cpu *cpu);
/* Turns cpu->fault into cpu->event: the fault of an instruction (RIP goes back to its start), or one met
 * while delivering another event (SDM 3, table 6-5). */
void bt_event_fault(struct bt_cpu *cpu);

/* What starts a task switch (SDM 3, table 7-2). */
enum bt_task_source { BT_TASK_JMP, BT_TASK_CALL, BT_TASK_IRET, BT_TASK_EVENT };

/*
 * Switches to the task whose TSS sel names, RIP being what the old TSS is to hold (task.c). The caller
 * has checked privilege (the DPL of the gate, or of the TSS descriptor for a direct JMP or CALL); all that
 * concerns the TSS itself is checked here: in the GDT, available (busy for IRET), present, large enough.
 * ext is the EXT bit for error codes, 1 or 0. With BT_TASK_EVENT, ev is the event and its error code is
 * pushed on the new stack; otherwise NULL.
 *
 * Faults found before the switch is committed belong to the old task and leave it unchanged; later ones
 * are raised in the new task, at its first instruction. The caller does nothing more afterwards (its op
 * is flagged BT_OP_END).
 */
void bt_task_switch(struct bt_cpu *cpu, uint16_t sel, enum bt_task_source source, int ext,
    const struct bt_event *ev);

#endif
