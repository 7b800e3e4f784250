/* What the harness measures around an inference: how deep the stack gets. The memory below the stack pointer is painted,
 * and the deepest byte that lost its colour is looked for. The depth goes to stack.bin. */
enum { PAINTED_BYTES = 1 << 16, PAINT = 0x5c };

#if defined(__arm__) || defined(__aarch64__)
#define STACK_POINTER(at) __asm__ volatile("mov %0, sp" : "=r"(at))
#elif defined(__riscv)
#define STACK_POINTER(at) __asm__ volatile("mv %0, sp" : "=r"(at))
#elif defined(__x86_64__)
#define STACK_POINTER(at) __asm__ volatile("mov %%rsp, %0" : "=r"(at))
#endif

#define METER(call)                                                          \
  {                                                                          \
    volatile uint8_t *stack;                                                 \
    uint32_t depth = PAINTED_BYTES;                                          \
    STACK_POINTER(stack);                                                    \
    for (int byte = 1; byte <= PAINTED_BYTES; byte++) {                      \
      stack[-byte] = PAINT;                                                  \
    }                                                                        \
    call;                                                                    \
    while (depth > 0 && stack[-(int)depth] == PAINT) {                       \
      depth--;                                                               \
    }                                                                        \
    const int file = host_open("stack.bin", 1);                              \
    host_write(file, &depth, sizeof depth);                                  \
    host_close(file);                                                        \
  }
