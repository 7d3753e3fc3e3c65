// A library to preload: it numbers what a program does to files below one folder, and lets one of these operations
// fail, be cut short, or end the program. Also it writes down what was done, with the bytes, so that a power cut at any
// moment can be played out on it.
//
// FAULTS_FOLDER  prefix of the paths that count, as the program names them
// FAULTS_LOG     file: a line "<number of its kind> <kind> <path>" before each operation
// FAULTS_TRACE   file: a record "<kind>\t<path or file>\t<path>\t<offset>\t<length>\n" and the bytes after each change
// FAULTS_KILL    the number, over all kinds that change something, before which the program kills itself
// FAULTS_FAIL    "<kind> <number> <errno>": that operation fails; errno 0: a write or read is cut short
// FAULTS_CLOCK   factor by which the steady clock runs faster
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum kind { OPEN, READ, WRITE, TRUNCATE, SYNC, RENAME, LINK, REMOVE, MKDIR, KINDS };
static const char* const kind_names[] = {"open",   "read", "write",  "truncate", "sync",
                                         "rename", "link", "remove", "mkdir"};
static const int changes_something[] = {0, 0, 1, 1, 1, 1, 1, 1, 1};

enum { FILES = 1024 };
static struct {
  char path[4096];
  int known, is_folder;
} files[FILES];  // by descriptor

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int ready, log_file = -1, trace_file = -1, counts[KINDS], changes, kill_at, fail_kind = -1, fail_at, fail_errno;
static const char* folder;

static int plain_open(const char* path, int flags, int mode) {
  return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

static int open_output(const char* variable) {
  const char* path = getenv(variable);
  return path == NULL ? -1 : plain_open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
}

static void prepare(void) {
  if (ready) return;
  ready = 1;
  folder = getenv("FAULTS_FOLDER");
  log_file = open_output("FAULTS_LOG");
  trace_file = open_output("FAULTS_TRACE");
  if (getenv("FAULTS_KILL") != NULL) kill_at = atoi(getenv("FAULTS_KILL"));
  const char* fail = getenv("FAULTS_FAIL");
  char name[16];
  if (fail != NULL && sscanf(fail, "%15s %d %d", name, &fail_at, &fail_errno) == 3) {
    for (int kind = 0; kind < KINDS; ++kind) {
      if (strcmp(name, kind_names[kind]) == 0) fail_kind = kind;
    }
  }
}

static int counts_path(const char* path) {
  prepare();
  if (folder == NULL || path == NULL) return 0;
  return strncmp(path, folder, strlen(folder)) == 0 || strcmp(path, ".") == 0;  // the folder in which that one is made
}

static const char* path_of(int descriptor) {
  return descriptor >= 0 && descriptor < FILES && files[descriptor].known ? files[descriptor].path : NULL;
}

static void put(int file, const char* bytes, size_t count) {
  while (count > 0) {
    const long done = syscall(SYS_write, file, bytes, count);
    if (done <= 0) return;
    bytes += done;
    count -= (size_t)done;
  }
}

// 1 where this operation is the one that fails.
static int begin(enum kind kind, const char* path) {
  pthread_mutex_lock(&lock);
  const int number = ++counts[kind];
  if (changes_something[kind] && ++changes == kill_at) kill(getpid(), SIGKILL);
  if (log_file >= 0) {
    char line[4200];
    put(log_file, line, (size_t)snprintf(line, sizeof(line), "%d %s %s\n", number, kind_names[kind], path));
  }
  pthread_mutex_unlock(&lock);
  return (int)kind == fail_kind && number == fail_at;
}

static int fails(enum kind kind, const char* path) {
  if (!begin(kind, path)) return 0;
  errno = fail_errno;
  return 1;
}

static void trace(const char* what, const char* one, const char* other, long offset, const void* bytes, size_t count) {
  if (trace_file < 0) return;
  char line[9000];
  pthread_mutex_lock(&lock);
  put(trace_file, line,
      (size_t)snprintf(line, sizeof(line), "%s\t%s\t%s\t%ld\t%zu\n", what, one, other, offset, count));
  if (bytes != NULL) put(trace_file, bytes, count);
  pthread_mutex_unlock(&lock);
}

// A file keeps its number when its name changes.
static const char* number_of(int descriptor, char text[32]) {
  struct stat status;
  fstat(descriptor, &status);
  snprintf(text, 32, "%lu", (unsigned long)status.st_ino);
  return text;
}

static int open_file(const char* path, int flags, int mode) {
  if (!counts_path(path)) return plain_open(path, flags, mode);
  if (fails(OPEN, path)) return -1;
  struct stat before;
  const int existed = stat(path, &before) == 0;
  const int descriptor = plain_open(path, flags, mode);
  if (descriptor < 0 || descriptor >= FILES) return descriptor;
  files[descriptor].known = 1;
  snprintf(files[descriptor].path, sizeof(files[descriptor].path), "%s", path);
  struct stat status;
  fstat(descriptor, &status);
  files[descriptor].is_folder = S_ISDIR(status.st_mode);
  char number[32];
  if (!existed) trace("create", number_of(descriptor, number), path, 0, NULL, 0);
  if (existed && (flags & O_TRUNC)) trace("truncate", number_of(descriptor, number), "", 0, NULL, 0);
  return descriptor;
}

int open(const char* path, int flags, ...) {
  int mode = 0;
  if (flags & (O_CREAT | O_TMPFILE)) {
    va_list list;
    va_start(list, flags);
    mode = va_arg(list, int);
    va_end(list);
  }
  return open_file(path, flags, mode);
}

int open64(const char* path, int flags, ...) __attribute__((alias("open")));

int close(int descriptor) {
  if (descriptor >= 0 && descriptor < FILES) files[descriptor].known = 0;
  return (int)syscall(SYS_close, descriptor);
}

ssize_t write(int descriptor, const void* bytes, size_t count) {
  const char* path = path_of(descriptor);
  if (path == NULL) return syscall(SYS_write, descriptor, bytes, count);
  if (begin(WRITE, path)) {
    if (fail_errno != 0 || count < 2) {
      errno = fail_errno != 0 ? fail_errno : EIO;
      return -1;
    }
    count /= 2;
  }
  struct stat status;
  fstat(descriptor, &status);
  const long offset =
      fcntl(descriptor, F_GETFL) & O_APPEND ? (long)status.st_size : (long)lseek(descriptor, 0, SEEK_CUR);
  const long done = syscall(SYS_write, descriptor, bytes, count);
  char number[32];
  if (done > 0) trace("write", number_of(descriptor, number), "", offset, bytes, (size_t)done);
  return done;
}

static ssize_t fail_read(const char* path, size_t* count) {
  if (path == NULL || !begin(READ, path)) return 0;
  if (fail_errno == 0 && *count > 1) {
    *count /= 2;
    return 0;
  }
  errno = fail_errno != 0 ? fail_errno : EIO;
  return -1;
}

ssize_t read(int descriptor, void* bytes, size_t count) {
  if (fail_read(path_of(descriptor), &count) != 0) return -1;
  return syscall(SYS_read, descriptor, bytes, count);
}

ssize_t pread(int descriptor, void* bytes, size_t count, off_t offset) {
  if (fail_read(path_of(descriptor), &count) != 0) return -1;
  return syscall(SYS_pread64, descriptor, bytes, count, offset);
}

ssize_t pread64(int descriptor, void* bytes, size_t count, off64_t offset) {
  return pread(descriptor, bytes, count, offset);
}

int ftruncate(int descriptor, off_t length) {
  const char* path = path_of(descriptor);
  if (path != NULL && fails(TRUNCATE, path)) return -1;
  const int result = (int)syscall(SYS_ftruncate, descriptor, length);
  char number[32];
  if (path != NULL && result == 0) trace("truncate", number_of(descriptor, number), "", length, NULL, 0);
  return result;
}

int ftruncate64(int descriptor, off64_t length) { return ftruncate(descriptor, length); }

// Nothing is synced really: that would take most of a trial's time, and a process that is killed loses nothing.
int fsync(int descriptor) {
  const char* path = path_of(descriptor);
  if (path == NULL) return (int)syscall(SYS_fsync, descriptor);
  if (fails(SYNC, path)) return -1;
  char number[32];
  if (files[descriptor].is_folder) {
    trace("sync_folder", path, "", 0, NULL, 0);
  } else {
    trace("sync", number_of(descriptor, number), "", 0, NULL, 0);
  }
  return 0;
}

int fdatasync(int descriptor) { return fsync(descriptor); }

// rename and link of a file, remove and mkdir of one without `to`.
static int change_names(enum kind kind, const char* from, const char* to, int mode) {
  const char* path = *to != '\0' ? to : from;
  const int counts = counts_path(path);
  if (counts && fails(kind, path)) return -1;
  const long result = kind == RENAME   ? syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0)
                      : kind == LINK   ? syscall(SYS_linkat, AT_FDCWD, from, AT_FDCWD, to, 0)
                      : kind == REMOVE ? syscall(SYS_unlinkat, AT_FDCWD, from, mode)
                                       : syscall(SYS_mkdirat, AT_FDCWD, from, mode);
  if (counts && result == 0) trace(kind_names[kind], from, to, 0, NULL, 0);
  return (int)result;
}

int rename(const char* from, const char* to) { return change_names(RENAME, from, to, 0); }
int link(const char* from, const char* to) { return change_names(LINK, from, to, 0); }
int mkdir(const char* path, mode_t mode) { return change_names(MKDIR, path, "", (int)mode); }
int unlink(const char* path) { return change_names(REMOVE, path, "", 0); }
int rmdir(const char* path) { return change_names(REMOVE, path, "", AT_REMOVEDIR); }
int remove(const char* path) {
  struct stat status;
  return change_names(REMOVE, path, "", lstat(path, &status) == 0 && S_ISDIR(status.st_mode) ? AT_REMOVEDIR : 0);
}

int clock_gettime(clockid_t clock, struct timespec* time) {
  const int result = (int)syscall(SYS_clock_gettime, clock, time);
  const char* factor = getenv("FAULTS_CLOCK");
  if (result == 0 && factor != NULL && clock == CLOCK_MONOTONIC) {
    static long begin_seconds;
    if (begin_seconds == 0) begin_seconds = time->tv_sec;
    const double scaled = ((double)(time->tv_sec - begin_seconds) + (double)time->tv_nsec * 1e-9) * atof(factor);
    time->tv_sec = begin_seconds + (long)scaled;
    time->tv_nsec = (long)((scaled - (double)(long)scaled) * 1e9);
  }
  return result;
}
