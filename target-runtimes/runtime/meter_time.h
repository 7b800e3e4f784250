/* What the harness measures around an inference: how long it takes. It is repeated until half a second has passed or
 * MOST times are known; where it is short, a time is that of several inferences. Nanoseconds for one inference, as
 * double, go to times.bin. */
#include <time.h>

enum { MOST = 1000, SHORTEST_NS = 20000, BUDGET_NS = 500000000 };

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return 1e9 * (double)time.tv_sec + (double)time.tv_nsec;
}

#define METER(call)                                                          \
  {                                                                          \
    static double times[MOST];                                               \
    size_t count = 0;                                                        \
    call;                                                                    \
    const double first = now();                                              \
    call;                                                                    \
    const double once = now() - first;                                       \
    const int together = once >= SHORTEST_NS ? 1 : (int)(SHORTEST_NS / (once + 1)) + 1; \
    while (count < MOST && (count < 11 || now() - first < BUDGET_NS)) {      \
      const double start = now();                                            \
      for (int i = 0; i < together; i++) {                                   \
        call;                                                                \
      }                                                                      \
      times[count++] = (now() - start) / together;                           \
    }                                                                        \
    const int file = host_open("times.bin", 1);                              \
    host_write(file, times, count * sizeof times[0]);                        \
    host_close(file);                                                        \
  }
