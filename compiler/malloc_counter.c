/* Counts the bytes that a process has allocated, when preloaded under it: what the C allocator hands out
 * (usable sizes, all threads) and anonymous mappings.
 *
 * The allocator behind it is glibc's, reached by its own second names, so that nothing has to be looked up
 * while the process starts. glibc's inner mappings do not pass through `mmap` and are not counted twice.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <malloc.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);
extern void __libc_free(void *);

enum { LARGE = 64 * 1024 };

static atomic_llong live;
static atomic_llong highest;
static atomic_llong large;

static void add(long long nbytes) {
    long long now = atomic_fetch_add_explicit(&live, nbytes, memory_order_relaxed) + nbytes;
    long long seen = atomic_load_explicit(&highest, memory_order_relaxed);
    while (now > seen &&
           !atomic_compare_exchange_weak_explicit(&highest, &seen, now, memory_order_relaxed,
                                                  memory_order_relaxed)) {
    }
    if (nbytes >= LARGE) atomic_fetch_add_explicit(&large, 1, memory_order_relaxed);
}

static void drop(long long nbytes) { atomic_fetch_sub_explicit(&live, nbytes, memory_order_relaxed); }

static void *counted(void *block) {
    if (block) add((long long)malloc_usable_size(block));
    return block;
}

/* Bytes allocated now. */
long long occ_counter_live(void) { return atomic_load(&live); }

/* The largest that `occ_counter_live` was since the last reset. */
long long occ_counter_peak(void) { return atomic_load(&highest); }

/* Allocations of 64 KiB or more since the last reset. */
long long occ_counter_large(void) { return atomic_load(&large); }

void occ_counter_reset(void) {
    atomic_store(&highest, atomic_load(&live));
    atomic_store(&large, 0);
}

void *malloc(size_t size) { return counted(__libc_malloc(size)); }

void *calloc(size_t count, size_t size) { return counted(__libc_calloc(count, size)); }

void *memalign(size_t alignment, size_t size) { return counted(__libc_memalign(alignment, size)); }

void *aligned_alloc(size_t alignment, size_t size) { return counted(__libc_memalign(alignment, size)); }

int posix_memalign(void **block, size_t alignment, size_t size) {
    if (alignment < sizeof(void *) || (alignment & (alignment - 1))) return EINVAL;
    void *found = counted(__libc_memalign(alignment, size));
    if (!found) return ENOMEM;
    *block = found;
    return 0;
}

void *realloc(void *block, size_t size) {
    size_t before = block ? malloc_usable_size(block) : 0;
    void *moved = __libc_realloc(block, size);
    if (!moved && size) return NULL; /* the old block is still there */
    drop((long long)before);
    return counted(moved);
}

void free(void *block) {
    if (block) drop((long long)malloc_usable_size(block));
    __libc_free(block);
}

/* Stacks and mappings without access are address space, not memory. */
static int takes_memory(int protection, int flags) {
    return (flags & MAP_ANONYMOUS) && !(flags & MAP_STACK) && (protection & PROT_WRITE);
}

/* Which mappings were counted; a mapping that finds no place here is not counted at all. */
enum { PLACES = 4096 };
static _Atomic(uintptr_t) starts[PLACES];
static size_t lengths[PLACES];

static void *map(void *wish, size_t length, int protection, int flags, int file, off_t offset) {
    void *found = (void *)syscall(SYS_mmap, wish, length, protection, flags, file, offset);
    if (found == MAP_FAILED || (flags & MAP_FIXED) || !takes_memory(protection, flags)) return found;
    for (int i = 0; i < PLACES; i++) {
        uintptr_t empty = 0;
        if (atomic_compare_exchange_strong(&starts[i], &empty, 1)) {
            lengths[i] = length;
            atomic_store(&starts[i], (uintptr_t)found);
            add((long long)length);
            break;
        }
    }
    return found;
}

void *mmap(void *wish, size_t length, int protection, int flags, int file, off_t offset) {
    return map(wish, length, protection, flags, file, offset);
}

void *mmap64(void *wish, size_t length, int protection, int flags, int file, off64_t offset) {
    return map(wish, length, protection, flags, file, (off_t)offset);
}

int munmap(void *start, size_t length) {
    /* Forgotten before it is unmapped: right after, another thread may get the same address. */
    for (int i = 0; i < PLACES; i++) {
        uintptr_t wanted = (uintptr_t)start;
        if (lengths[i] == length && atomic_compare_exchange_strong(&starts[i], &wanted, 0)) {
            drop((long long)length);
            break;
        }
    }
    return (int)syscall(SYS_munmap, start, length);
}
