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

// From a file: blocks, threads (x, y), bytes of shared memory, of the argument, of x, y and w; then
// the argument, whose first fields are the addresses of the three, and x and w.
int main(int, char** names)
{
    FILE* file = fopen(names[1], "rb");
    unsigned long head[8];
    if (!file || fread(head, 8, 8, file) != 8) return 2;
    void* argument = nullptr;
    if (posix_memalign(&argument, 16, head[4]) || fread(argument, 1, head[4], file) != head[4]) return 2;
    for (int operand = 0; operand < 3; ++operand) {
        const size_t bytes = head[5 + operand];
        void* memory = calloc(bytes ? bytes : 1, 1);
        if (operand != 1 && fread(memory, 1, bytes, file) != bytes) return 2;
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
