/* Start-up for emulated RISC-V boards. */
#include <stdint.h>

int main(void);
void host_exit(int status);
intptr_t semihost_call(intptr_t operation, const void *arguments);
void reset(void);
void start(void);

extern uint64_t bss_start[], bss_end[];

__attribute__((naked, section(".start"))) void reset(void) {
  __asm__ volatile(
      "la sp, stack_top\n"
      "j start\n");
}

void start(void) {
  for (uint64_t *word = bss_start; word < bss_end; word++) {
    *word = 0;
  }
  host_exit(main());
}

intptr_t semihost_call(intptr_t operation, const void *arguments) {
  register intptr_t a0 __asm__("a0") = operation;
  register const void *a1 __asm__("a1") = arguments;
  /* The three instructions together are the mark of a semihosting call; they must not be compressed or split. */
  __asm__ volatile(
      ".balign 16\n"
      ".option push\n"
      ".option norvc\n"
      "slli zero, zero, 0x1f\n"
      "ebreak\n"
      "srai zero, zero, 7\n"
      ".option pop\n"
      : "+r"(a0)
      : "r"(a1)
      : "memory");
  return a0;
}
