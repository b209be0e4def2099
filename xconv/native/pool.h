// Threads for one loop at a time.
#pragma once

#include <atomic>
#include <cstddef>
#include <exception>
#include <mutex>

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

// Carries an exception of a loop's tasks, which must not throw, to the thread that waits for them.
class Failure {
 public:
  template <class Task>
  void keep_of(Task&& task) {
    try {
      task();
    } catch (...) {
      const std::lock_guard<std::mutex> lock(mutex_);
      failure_ = std::current_exception();
      happened_ = true;
    }
  }
  bool happened() const { return happened_; }
  void rethrow() const {
    if (failure_) std::rethrow_exception(failure_);
  }

 private:
  std::atomic<bool> happened_{false};
  std::mutex mutex_;
  std::exception_ptr failure_;
};

// The same of tasks (worker, i) that may throw: what one did is thrown here, the rest left out.
template <class Task>
bool run_tasks(std::ptrdiff_t count, int workers, bool (*interrupted)(), Task&& task) {
  struct Context {
    Task& task;
    Failure failure;
  } context{task, {}};
  const ParallelLoop loop{count,
                          [](void* self, int worker, std::ptrdiff_t i) {
                            auto* context = static_cast<Context*>(self);
                            if (!context->failure.happened())
                              context->failure.keep_of([&] { context->task(worker, i); });
                          },
                          &context, interrupted};
  const bool completed = run_loop(loop, workers);
  context.failure.rethrow();
  return completed;
}

}  // namespace xconv
