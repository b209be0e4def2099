// Runs one launch with a thread of the host per thread of a block, for ThreadSanitizer.
// Put in front: emulator.h, the kernel, and emulated_run.
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include <thread>
#include <vector>

thread_local EmulatedIndex emulated_thread;
EmulatedIndex emulated_block, emulated_threads, emulated_blocks;
unsigned char* emulated_shared;
static pthread_barrier_t barrier;

void emulated_barrier() { pthread_barrier_wait(&barrier); }

// From a file: blocks, threads (x, y), bytes of shared memory and of the argument, the number of
// addresses with which that begins, and the bytes of what each points to; then the argument, and
// what the first and the third, x and w, point to.  The rest is 0.
int main(int, char** names)
{
    FILE* file = fopen(names[1], "rb");
    unsigned long head[6];
    if (!file || fread(head, 8, 6, file) != 6) return 2;
    std::vector<unsigned long> sizes(head[5]);
    if (fread(sizes.data(), 8, sizes.size(), file) != sizes.size()) return 2;
    void* argument = nullptr;
    if (posix_memalign(&argument, 16, head[4]) || fread(argument, 1, head[4], file) != head[4]) return 2;
    for (unsigned operand = 0; operand < sizes.size(); ++operand) {
        const size_t bytes = sizes[operand];
        void* memory = calloc(bytes ? bytes : 1, 1);
        if (!(operand & 1) && operand < 3 && fread(memory, 1, bytes, file) != bytes) return 2;
        static_cast<void**>(argument)[operand] = memory;
    }
    const unsigned count = head[1] * head[2];
    emulated_blocks = {static_cast<unsigned>(head[0]), 1, 1};
    emulated_threads = {static_cast<unsigned>(head[1]), static_cast<unsigned>(head[2]), 1};
    for (unsigned block = 0; block < head[0]; ++block) {
        emulated_block = {block, 0, 0};
        void* memory = nullptr;
        if (posix_memalign(&memory, 32, head[3])) return 2;
        emulated_shared = static_cast<unsigned char*>(memory);
        pthread_barrier_init(&barrier, nullptr, count);
        std::vector<std::thread> threads;
        for (unsigned i = 0; i < count; ++i)
            threads.emplace_back([=] {
                emulated_thread = {i % emulated_threads.x, i / emulated_threads.x, 0};
                emulated_run(argument);
            });
        for (std::thread& thread : threads) thread.join();
        pthread_barrier_destroy(&barrier);
        free(memory);
    }
    puts("finished");
}
