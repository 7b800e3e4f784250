/* Reset: registers of the FPU and of Helium on, memory initialised, then main. */
#include <stdint.h>

#include "semihosting.h"

int main(void);
void reset(void);

extern uint32_t data_start[], data_end[], data_load[], bss_start[], bss_end[], stack_top[];

static void fault(void) {
  print("a fault of the processor\n");
  stop(1);
}

/* Initial stack pointer, reset, and the faults of the core. */
__attribute__((used, section(".vectors"))) static const uintptr_t vectors[16] = {
    (uintptr_t)stack_top, (uintptr_t)reset, (uintptr_t)fault, (uintptr_t)fault, (uintptr_t)fault,
    (uintptr_t)fault,     (uintptr_t)fault, (uintptr_t)fault, 0,                0,
    0,                    (uintptr_t)fault, (uintptr_t)fault, 0,                (uintptr_t)fault,
    (uintptr_t)fault,
};

void reset(void) {
  volatile uint32_t *const cpacr = (volatile uint32_t *)0xe000ed88u;
  *cpacr |= 0xfu << 20;
  __asm__ volatile("dsb\n isb" ::: "memory");
  const uint32_t *from = data_load;
  for (uint32_t *to = data_start; to < data_end; to++) {
    *to = *from++;
  }
  for (uint32_t *word = bss_start; word < bss_end; word++) {
    *word = 0;
  }
  stop(main());
}
