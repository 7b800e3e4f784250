/* The functions of semihosting.c for programs that run under an operating system. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

int host_open(const char *name, int write);
size_t host_read(int file, void *buffer, size_t bytes);
void host_write(int file, const void *buffer, size_t bytes);
void host_close(int file);
void host_exit(int status);
void *host_edge(size_t bytes);

enum { EDGE_BYTES = 1 << 16, CLOSED_BYTES = 1 << 16 };

static FILE *files[8];

int host_open(const char *name, int write) {
  for (int file = 0; file < 8; file++) {
    if (files[file] == NULL) {
      files[file] = fopen(name, write ? "wb" : "rb");
      return files[file] == NULL ? -1 : file;
    }
  }
  return -1;
}

size_t host_read(int file, void *buffer, size_t bytes) { return fread(buffer, 1, bytes, files[file]); }

void host_write(int file, const void *buffer, size_t bytes) {
  if (fwrite(buffer, 1, bytes, files[file]) != bytes) {
    host_exit(2);
  }
}

void host_close(int file) {
  fclose(files[file]);
  files[file] = NULL;
}

void host_exit(int status) { exit(status); }

/* Some memory behind which no access is allowed. */
void *host_edge(size_t bytes) {
  static unsigned char *begin;
  if (begin == NULL) {
    begin = mmap(NULL, EDGE_BYTES + CLOSED_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (begin == MAP_FAILED || mprotect(begin + EDGE_BYTES, CLOSED_BYTES, PROT_NONE) != 0) {
      host_exit(2);
    }
  }
  return begin + EDGE_BYTES - bytes;
}
