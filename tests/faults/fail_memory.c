/* To be preloaded: a request for memory of some size fails, as when the system has none left.
 *
 * LUQ_MEMORY_LEAST   bytes of the requests that count
 * LUQ_MEMORY_FAILS   number of the one that fails, from 1; 0: none
 * LUQ_MEMORY_STAYS   1: those after it fail too
 * LUQ_MEMORY_COUNT   file that gets the number of requests that counted, at the end
 *
 * Requests count from where the program itself begins: what initialises the libraries that it is linked to comes before
 * it, and where that gets no memory no program can say anything. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static atomic_long requests;
static atomic_int has_begun;
static long least, fails, stays;

static void* (*next_malloc)(size_t);
static void* (*next_calloc)(size_t, size_t);
static void* (*next_realloc)(void*, size_t);
static int (*next_posix_memalign)(void**, size_t, size_t);
static void* (*next_aligned_alloc)(size_t, size_t);
static void* (*next_mmap)(void*, size_t, int, int, int, off_t);

/* dlsym() asks for memory before there is any. */
static char early[1 << 16];
static size_t early_used;

static void* take_early(size_t size) {
  void* taken = early + early_used;
  early_used += (size + 15) / 16 * 16;
  return early_used <= sizeof early ? taken : NULL;
}

static int is_early(const void* memory) {
  return (const char*)memory >= early && (const char*)memory < early + sizeof early;
}

static long number(const char* name) {
  const char* text = getenv(name);
  return text != NULL ? atol(text) : 0;
}

static void find(void) {
  static int begun;
  if (begun) return;
  begun = 1;
  least = number("LUQ_MEMORY_LEAST");
  fails = number("LUQ_MEMORY_FAILS");
  stays = number("LUQ_MEMORY_STAYS");
  next_calloc = dlsym(RTLD_NEXT, "calloc");
  next_realloc = dlsym(RTLD_NEXT, "realloc");
  next_posix_memalign = dlsym(RTLD_NEXT, "posix_memalign");
  next_aligned_alloc = dlsym(RTLD_NEXT, "aligned_alloc");
  next_mmap = dlsym(RTLD_NEXT, "mmap");
  next_malloc = dlsym(RTLD_NEXT, "malloc");
}

__attribute__((constructor)) static void begin(void) { find(); }

static int refused(size_t size) {
  if (size < (size_t)least || least == 0 || !has_begun) return 0;
  const long now = ++requests;
  if (fails == 0 || now < fails || (now > fails && !stays)) return 0;
  errno = ENOMEM;
  return 1;
}

/* The first that a program calls, behind the initialisation of its libraries and before its own. */
int __libc_start_main(int (*main)(int, char**, char**), int count, char** words, void (*start)(void),
                      void (*finish)(void), void (*leave)(void), void* stack) {
  int (*next)(int (*)(int, char**, char**), int, char**, void (*)(void), void (*)(void), void (*)(void), void*) =
      dlsym(RTLD_NEXT, "__libc_start_main");
  has_begun = 1;
  return next(main, count, words, start, finish, leave, stack);
}

void* malloc(size_t size) {
  find();
  if (next_malloc == NULL) return take_early(size);
  return refused(size) ? NULL : next_malloc(size);
}

void* calloc(size_t count, size_t size) {
  find();
  if (next_malloc == NULL) return take_early(count * size);
  return refused(count * size) ? NULL : next_calloc(count, size);
}

void* realloc(void* memory, size_t size) {
  find();
  if (next_malloc == NULL || is_early(memory)) {
    void* moved = malloc(size);
    if (moved != NULL && memory != NULL) memcpy(moved, memory, size);
    return moved;
  }
  return refused(size) ? NULL : next_realloc(memory, size);
}

void free(void* memory) {
  static void (*next_free)(void*);
  if (is_early(memory)) return;
  if (next_free == NULL) next_free = dlsym(RTLD_NEXT, "free");
  next_free(memory);
}

int posix_memalign(void** memory, size_t alignment, size_t size) {
  find();
  return refused(size) ? ENOMEM : next_posix_memalign(memory, alignment, size);
}

void* aligned_alloc(size_t alignment, size_t size) {
  find();
  return refused(size) ? NULL : next_aligned_alloc(alignment, size);
}

void* mmap(void* where, size_t size, int protection, int flags, int file, off_t offset) {
  find();
  return file < 0 && refused(size) ? MAP_FAILED : next_mmap(where, size, protection, flags, file, offset);
}

void* mmap64(void* where, size_t size, int protection, int flags, int file, off_t offset) {
  return mmap(where, size, protection, flags, file, offset);
}

__attribute__((destructor)) static void end(void) {
  const char* name = getenv("LUQ_MEMORY_COUNT");
  FILE* file = name != NULL ? fopen(name, "w") : NULL;
  if (file == NULL) return;
  fprintf(file, "%ld\n", (long)requests);
  fclose(file);
}
