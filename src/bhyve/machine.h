/*
 * The machine that a configuration describes: engine, memory, chips, serial lines, tables and
 * kernel.
 */
#ifndef BHYVE_MACHINE_H
#define BHYVE_MACHINE_H

struct config;

/* Makes the machine from a tree that vars_check() passed, runs it to its end and takes it apart
 * again. Main thread, after lifecycle_signals_init(). Returns the process's exit status (bhyve(8));
 * it is VM_EXIT_ERROR after one line to the user when the machine could not be made. */
int machine_run(const struct config *config);

#endif
