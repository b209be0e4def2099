// Runs a kernel on the host: the threads of a block are fibers that yield at barriers.
#include "emulator.h"

#include <stdint.h>
#include <stdlib.h>
#include <ucontext.h>

#include <memory>
#include <utility>
#include <vector>

thread_local EmulatedIndex emulated_thread;
EmulatedIndex emulated_block, emulated_threads, emulated_blocks;
unsigned char* emulated_shared;

namespace {

enum State { ready, waiting, finished };
struct Fiber { ucontext_t context; EmulatedIndex thread; State state; };

ucontext_t scheduler;
Fiber* current;
void (*kernel)(void*);
void* kernel_argument;

void body()
{
    kernel(kernel_argument);
    current->state = finished;
    swapcontext(&current->context, &scheduler);
}

// Order in which the threads of a block run: forward, backward, or shuffled by `seed`.
std::vector<int> order_of(int threads, int order, uint32_t& seed)
{
    std::vector<int> turn(threads);
    for (int i = 0; i < threads; ++i) turn[i] = order == 1 ? threads - 1 - i : i;
    for (int i = threads - 1; order == 2 && i > 0; --i) {
        seed = seed * 1664525u + 1013904223u;
        std::swap(turn[i], turn[(seed >> 8) % (i + 1)]);
    }
    return turn;
}

// 0, or 1 where some threads wait at a barrier that others never reach.
int run_block(std::vector<Fiber>& fibers, unsigned char* stacks, size_t stack, int order, uint32_t& seed)
{
    const int threads = static_cast<int>(fibers.size());
    for (int i = 0; i < threads; ++i) {
        Fiber& fiber = fibers[i];
        fiber.state = ready;
        fiber.thread = {i % emulated_threads.x, i / emulated_threads.x, 0};
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = stacks + i * stack;
        fiber.context.uc_stack.ss_size = stack;
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, body, 0);
    }
    for (;;) {
        int done = 0;
        for (int i : order_of(threads, order, seed)) {
            current = &fibers[i];
            emulated_thread = current->thread;
            if (current->state == ready) swapcontext(&scheduler, &current->context);
            done += current->state == finished;
        }
        if (done == threads) return 0;
        if (done) return 1;
        for (Fiber& fiber : fibers) fiber.state = ready;
    }
}

}  // namespace

void emulated_barrier()
{
    current->state = waiting;
    swapcontext(&current->context, &scheduler);
}

extern "C" int emulated_launch(
    void (*run)(void*), void* argument, unsigned blocks, const unsigned* threads, size_t shared,
    int order, uint32_t seed)
{
    kernel = run;
    kernel_argument = argument;
    emulated_threads = {threads[0], threads[1], 1};
    emulated_blocks = {blocks, 1, 1};
    std::vector<Fiber> fibers(threads[0] * threads[1]);
    const size_t stack = 64 << 10;
    std::unique_ptr<unsigned char[]> stacks(new unsigned char[fibers.size() * stack]);
    for (unsigned block = 0; block < blocks; ++block) {
        emulated_block = {block, 0, 0};
        // New for each block, of the very size asked for, and full of NaN.
        void* memory = nullptr;
        if (shared && posix_memalign(&memory, 32, shared)) return 2;
        emulated_shared = static_cast<unsigned char*>(memory);
        if (shared) memset(emulated_shared, 0xff, shared);
        const int wrong = run_block(fibers, stacks.get(), stack, order, seed);
        free(memory);
        if (wrong) return wrong;
    }
    return 0;
}
