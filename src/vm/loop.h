/*
 * The event loop: file descriptors, timers and deferred calls, all run on one thread, one at a time.
 *
 * Callbacks must not block. Every function may be called from any thread unless it says otherwise.
 * After a remove or cancel from the loop's own thread the callback does not run again; from another
 * thread, one that is running may still finish (wait with vm_loop_sync()).
 */
#ifndef VM_LOOP_H
#define VM_LOOP_H

#include <stdbool.h>
#include <stdint.h>

struct vm_loop;
struct vm_fd;
struct vm_timer;

/* A loop of its own (a VM has one already: vm_loop()). NULL when out of resources. */
struct vm_loop *vm_loop_create(void);
void vm_loop_destroy(struct vm_loop *loop);
/* Runs until vm_loop_stop(). vm_loop_poll() handles what is ready, waiting at most timeout_ms (-1:
 * for ever), and returns the number of callbacks run (tests). */
void vm_loop_run(struct vm_loop *loop);
int vm_loop_poll(struct vm_loop *loop, int timeout_ms);
void vm_loop_stop(struct vm_loop *loop);
/* Waits until the loop is between callbacks; returns at once on the loop's own thread. */
void vm_loop_sync(struct vm_loop *loop);
/* Runs fn(arg) once on the loop's thread, soon. 0 or -ENOMEM. */
int vm_loop_defer(struct vm_loop *loop, void (*fn)(void *arg), void *arg);

#define VM_FD_READ 1u /* readable, or the peer is gone */
#define VM_FD_WRITE 2u
typedef void vm_fd_fn(void *arg, unsigned events);
/* Watches fd, level-triggered, for the events asked for (0: only errors and hang-up, reported as
 * VM_FD_READ). The fd stays the caller's and outlives the watch. NULL on error, errno set. */
struct vm_fd *vm_fd_add(struct vm_loop *loop, int fd, unsigned events, vm_fd_fn *fn, void *arg);
void vm_fd_change(struct vm_fd *watch, unsigned events);
void vm_fd_remove(struct vm_fd *watch); /* NULL is fine */

/* Nanoseconds on the VM's clock: CLOCK_MONOTONIC, standing still while the VM is paused. */
uint64_t vm_clock_ns(struct vm_loop *loop);
/* Stops and resumes the clock and all timers (suspend). */
void vm_clock_pause(struct vm_loop *loop);
void vm_clock_resume(struct vm_loop *loop);
/* Sets the clock, after loading a saved state, while paused. */
void vm_clock_set(struct vm_loop *loop, uint64_t ns);
/* Moves the paused clock on by ns and runs the timers that fall due on the way, each at its own
 * deadline, on the calling thread. Returns how many ran. Nothing else may run the loop meanwhile: this
 * is how a test makes time pass. */
int vm_clock_step(struct vm_loop *loop, uint64_t ns);

typedef void vm_timer_fn(void *arg);
/* A timer, not armed. The callback runs on the loop's thread, no lock held. NULL when out of memory. */
struct vm_timer *vm_timer_create(struct vm_loop *loop, vm_timer_fn *fn, void *arg);
void vm_timer_destroy(struct vm_timer *timer); /* NULL is fine */
/* Arms the timer once for deadline_ns on vm_clock_ns(); past deadlines fire at once. Cheap when the
 * deadline is not the earliest. Re-arming replaces. */
void vm_timer_arm(struct vm_timer *timer, uint64_t deadline_ns);
void vm_timer_cancel(struct vm_timer *timer);
bool vm_timer_armed(const struct vm_timer *timer);
uint64_t vm_timer_deadline(const struct vm_timer *timer);

#endif
