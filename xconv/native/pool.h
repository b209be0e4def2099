// Threads for one loop at a time.
#pragma once

#include <cstddef>

namespace xconv {

// CPUs that this process may use: affinity and the cgroup's quota; XCONV_NUM_THREADS, where set.
int cpu_count();

struct ParallelLoop {
  std::ptrdiff_t count;                                       // of tasks, 0 to count - 1
  void (*task)(void* context, int worker, std::ptrdiff_t i);  // must not throw
  void* context;
  bool (*interrupted)();  // asked by the calling thread about every 100 ms; may be null
};

// Runs the tasks on up to `workers` threads, of which the calling thread is worker 0.  Returns
// false where `interrupted` said so, with tasks left out.  Where another thread's loop has the
// pool, or no thread can be started, the calling thread does all.
bool run_loop(const ParallelLoop& loop, int workers);

}  // namespace xconv
