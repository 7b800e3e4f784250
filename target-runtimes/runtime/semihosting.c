/* Files of the development machine, reached from an emulated board through Arm's semihosting interface, which RISC-V
 * shares. `semihost_call` is in the start-up code, because the trap differs. */
#include <stddef.h>
#include <stdint.h>

intptr_t semihost_call(intptr_t operation, const void *arguments);
int host_open(const char *name, int write);
size_t host_read(int file, void *buffer, size_t bytes);
void host_write(int file, const void *buffer, size_t bytes);
void host_close(int file);
void host_exit(int status);
void *host_edge(size_t bytes);

extern unsigned char memory_end[];

enum { SYS_OPEN = 0x01, SYS_CLOSE = 0x02, SYS_WRITE = 0x05, SYS_READ = 0x06, SYS_EXIT = 0x18 };
enum { STOPPED_APPLICATION_EXIT = 0x20026, STOPPED_RUN_TIME_ERROR = 0x20023 };

int host_open(const char *name, int write) {
  size_t length = 0;
  while (name[length] != '\0') {
    length++;
  }
  /* Modes are numbered like fopen's: 1 is "rb", 5 is "wb". */
  const intptr_t arguments[3] = {(intptr_t)name, write ? 5 : 1, (intptr_t)length};
  return (int)semihost_call(SYS_OPEN, arguments);
}

size_t host_read(int file, void *buffer, size_t bytes) {
  const intptr_t arguments[3] = {file, (intptr_t)buffer, (intptr_t)bytes};
  /* The result counts the bytes that were not read. */
  return bytes - (size_t)semihost_call(SYS_READ, arguments);
}

void host_write(int file, const void *buffer, size_t bytes) {
  const intptr_t arguments[3] = {file, (intptr_t)buffer, (intptr_t)bytes};
  (void)semihost_call(SYS_WRITE, arguments);
}

void host_close(int file) {
  const intptr_t arguments[1] = {file};
  (void)semihost_call(SYS_CLOSE, arguments);
}

/* Some memory behind which there is none: on many boards an access beyond it faults. */
void *host_edge(size_t bytes) { return memory_end - bytes; }

void host_exit(int status) {
  const intptr_t reason = status == 0 ? STOPPED_APPLICATION_EXIT : STOPPED_RUN_TIME_ERROR;
  (void)semihost_call(SYS_EXIT, (const void *)reason);
  for (;;) {
  }
}
