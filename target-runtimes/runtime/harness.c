/* Reads samples from inputs.bin, runs the model, writes its outputs to outputs.bin. Checks on the way that the model
 * changes neither its inputs nor anything beside its buffers, and that garbage in the arena does not matter.
 * model.h, which is written for each model, defines INPUTS(X), OUTPUTS(X), ARENA_BYTES and RUN(arena); if it also names
 * a header as METER_HEADER, METER(call) of that header runs the model and measures it. */
#include <stddef.h>
#include <stdint.h>

#include "model.h"

int host_open(const char *name, int write);
size_t host_read(int file, void *buffer, size_t bytes);
void host_write(int file, const void *buffer, size_t bytes);
void host_close(int file);
void host_exit(int status);

#ifdef METER_HEADER
#include METER_HEADER
#else
#define METER(call) call
#endif

enum { GUARD_BYTES = 16, GARBAGE = 0xa5 };

#define DECLARE(type, name, len)  \
  static struct {                 \
    type data[len];               \
    uint8_t guard[GUARD_BYTES];   \
  } name;
INPUTS(DECLARE)
OUTPUTS(DECLARE)

static union {
  uint64_t alignment;
  uint8_t data[ARENA_BYTES + GUARD_BYTES];
} arena;

static void fill(volatile uint8_t *at, size_t bytes) {
  for (size_t i = 0; i < bytes; i++) {
    at[i] = GARBAGE;
  }
}

static void check(const volatile uint8_t *at) {
  for (size_t i = 0; i < GUARD_BYTES; i++) {
    if (at[i] != GARBAGE) {
      host_exit(3);
    }
  }
}

static uint32_t sum(const void *at, size_t bytes) {
  uint32_t total = 1;
  for (size_t i = 0; i < bytes; i++) {
    total = total * 31u + ((const uint8_t *)at)[i];
  }
  return total;
}

static int read_sample(int file) {
#define READ(type, name, len)                                                    \
  if (host_read(file, name.data, sizeof name.data) != sizeof name.data) return 0;
  INPUTS(READ)
  return 1;
}

static uint32_t sum_of_inputs(void) {
  uint32_t total = 0;
#define SUM(type, name, len) total += sum(name.data, sizeof name.data);
  INPUTS(SUM)
  return total;
}

int main(void) {
  const int in = host_open("inputs.bin", 0);
  const int out = host_open("outputs.bin", 1);
  if (in < 0 || out < 0) {
    return 4;
  }
#define GUARD(type, name, len) fill(name.guard, GUARD_BYTES);
  INPUTS(GUARD)
  OUTPUTS(GUARD)
  while (read_sample(in)) {
    const uint32_t before = sum_of_inputs();
    fill(arena.data, sizeof arena.data);
    METER(RUN(arena.data));
    if (sum_of_inputs() != before) {
      return 5;
    }
#define CHECK(type, name, len) check(name.guard);
    INPUTS(CHECK)
    OUTPUTS(CHECK)
    check(arena.data + ARENA_BYTES);
#define WRITE(type, name, len) host_write(out, name.data, sizeof name.data);
    OUTPUTS(WRITE)
  }
  host_close(out);
  return 0;
}
