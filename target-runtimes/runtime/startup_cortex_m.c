/* Start-up for emulated Cortex-M boards. */
#include <stdint.h>

int main(void);
void host_exit(int status);
intptr_t semihost_call(intptr_t operation, const void *arguments);
void reset(void);

extern uint64_t bss_start[], bss_end[], stack_top[];

static void fault(void) { host_exit(2); }

/* Initial stack pointer, reset, and the faults of the core. */
__attribute__((used, section(".vectors"))) static const uintptr_t vectors[16] = {
    (uintptr_t)stack_top, (uintptr_t)reset, (uintptr_t)fault, (uintptr_t)fault, (uintptr_t)fault,
    (uintptr_t)fault,     (uintptr_t)fault, (uintptr_t)fault, 0,                0,
    0,                    (uintptr_t)fault, (uintptr_t)fault, 0,                (uintptr_t)fault,
    (uintptr_t)fault,
};

void reset(void) {
#if defined(__ARM_FP) || defined(__ARM_FEATURE_MVE)
  /* CPACR: floating point and vector registers on. */
  *(volatile uint32_t *)0xe000ed88u |= 0xfu << 20;
  __asm__ volatile("dsb\n isb" ::: "memory");
#endif
  for (uint64_t *word = bss_start; word < bss_end; word++) {
    *word = 0;
  }
  host_exit(main());
}

intptr_t semihost_call(intptr_t operation, const void *arguments) {
  register intptr_t r0 __asm__("r0") = operation;
  register const void *r1 __asm__("r1") = arguments;
  __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
  return r0;
}
