/* A plugin for QEMU that counts executed instructions, each for the part of the program that it belongs to.
 *
 * Arguments: ranges=FILE, lines "START END PART TURNS" in hexadecimal, sorted and disjoint: addresses and the part they
 * belong to. If there are several TURNS, the range is the entry of a function that several parts share: the first call is
 * for PART, the second for PART + 1, and so on round. Code outside of all ranges counts for the part that called it.
 * counts=FILE: where the counts go at exit, one line for each part.
 *
 * QEMU's header is not needed: the functions below are all that is used of it, and have not changed since QEMU 4.2. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef PLUGIN_API
#define PLUGIN_API 1
#endif

typedef uint64_t plugin_id;
typedef struct qemu_plugin_tb block;
typedef struct qemu_plugin_insn instruction;

void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id id, void (*translated)(plugin_id, block *));
void qemu_plugin_register_vcpu_insn_exec_cb(instruction *at, void (*executed)(unsigned, void *), int flags, void *data);
void qemu_plugin_register_atexit_cb(plugin_id id, void (*ended)(plugin_id, void *), void *data);
size_t qemu_plugin_tb_n_insns(const block *block);
instruction *qemu_plugin_tb_get_insn(const block *block, size_t index);
uint64_t qemu_plugin_insn_vaddr(const instruction *at);
int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv);

int qemu_plugin_version = PLUGIN_API;

enum { MAX_PARTS = 1 << 16, MAX_RANGES = 1 << 16 };

typedef struct {
  uint64_t start, end;
  unsigned part, turns, next;
} range;

static range *ranges;
static size_t range_count;
static uint64_t counts[MAX_PARTS];
static unsigned part_count = 1;
static unsigned current;
static const char *counts_name;

/* Index of the range that holds an address; the number of ranges if there is none. */
static unsigned range_of(uint64_t address) {
  size_t low = 0, high = range_count;
  while (low < high) {
    const size_t middle = (low + high) / 2;
    if (address < ranges[middle].start) {
      high = middle;
    } else if (address >= ranges[middle].end) {
      low = middle + 1;
    } else {
      return (unsigned)middle;
    }
  }
  return (unsigned)range_count;
}

/* The data is the range of a run of instructions, and their number. */
static void executed(unsigned cpu, void *data) {
  const uintptr_t run = (uintptr_t)data;
  const size_t index = run & 0xffff;
  (void)cpu;
  if (index < range_count) {
    range *const at = &ranges[index];
    current = at->part + at->next;
    at->next = (at->next + 1) % at->turns;
  }
  counts[current] += run >> 16;
}

static void translated(plugin_id id, block *block) {
  const size_t count = qemu_plugin_tb_n_insns(block);
  (void)id;
  for (size_t first = 0, end; first < count; first = end) {
    instruction *const at = qemu_plugin_tb_get_insn(block, first);
    const unsigned index = range_of(qemu_plugin_insn_vaddr(at));
    end = first + 1;
    while (end < count && range_of(qemu_plugin_insn_vaddr(qemu_plugin_tb_get_insn(block, end))) == index) {
      end++;
    }
    qemu_plugin_register_vcpu_insn_exec_cb(at, executed, 0, (void *)((uintptr_t)(end - first) << 16 | index));
  }
}

static void ended(plugin_id id, void *data) {
  FILE *const file = fopen(counts_name, "w");
  (void)id;
  (void)data;
  if (file == NULL) {
    return;
  }
  for (unsigned part = 0; part < part_count; part++) {
    fprintf(file, "%llu\n", (unsigned long long)counts[part]);
  }
  fclose(file);
}

static int read_ranges(const char *name) {
  FILE *const file = fopen(name, "r");
  unsigned long long start, end;
  unsigned part, turns;
  size_t capacity = 0;
  if (file == NULL) {
    return -1;
  }
  while (fscanf(file, "%llx %llx %x %x", &start, &end, &part, &turns) == 4) {
    if (range_count == capacity) {
      capacity = 2 * capacity + 64;
      ranges = realloc(ranges, capacity * sizeof *ranges);
      if (ranges == NULL) {
        return -1;
      }
    }
    if (turns == 0 || part + turns > MAX_PARTS || range_count + 1 >= MAX_RANGES) {
      return -1;
    }
    ranges[range_count++] = (range){start, end, part, turns, 0};
    part_count = part + turns > part_count ? part + turns : part_count;
  }
  fclose(file);
  return 0;
}

int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv) {
  const char *ranges_name = NULL;
  (void)info;
  for (int i = 0; i < argc; i++) {
    if (strncmp(argv[i], "ranges=", 7) == 0) {
      ranges_name = argv[i] + 7;
    } else if (strncmp(argv[i], "counts=", 7) == 0) {
      counts_name = strdup(argv[i] + 7);
    }
  }
  if (ranges_name == NULL || counts_name == NULL || read_ranges(ranges_name) != 0) {
    return -1;
  }
  qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
  qemu_plugin_register_atexit_cb(id, ended, NULL);
  return 0;
}
