#include "pool.h"

#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <mutex>
#include <system_error>
#include <thread>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace xconv {
namespace {

using Clock = std::chrono::steady_clock;

// Looking this long for the next loop before sleeping spares a wake-up (10 to 20 us) between calls
// that follow each other, of which Python takes 10 us, and takes no time from others that is worth
// mentioning.
constexpr auto next_loop_time = std::chrono::microseconds(40);
// The same for the calling thread, while the last tasks end on others.
constexpr auto last_task_time = std::chrono::microseconds(100);
constexpr auto signal_period = std::chrono::milliseconds(100);
constexpr int most_threads = 256;

void pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

template <class Condition>
void wait_awake(Condition&& holds, Clock::duration longest) {
  const auto until = Clock::now() + longest;
  while (!holds() && Clock::now() < until) {
    for (int i = 0; i < 16; ++i) pause();
  }
}

// Asks the scheduler for turns of 0.1 ms instead of milliseconds.  Linux from 6.12 on then lets a
// thread that wakes interrupt one with longer turns: the threads of other libraries look for their
// next loop for milliseconds, in which a CPU would be lost to ours.  A refusal costs no more.
void take_short_turns() {
  struct {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime, deadline, period;
  } attributes = {};
  if (syscall(SYS_sched_getattr, 0, &attributes, sizeof attributes, 0) != 0) return;
  if (attributes.policy != SCHED_OTHER) return;
  attributes.runtime = 100'000;
  syscall(SYS_sched_setattr, 0, &attributes, 0);
}

// A thread of the pool.  A scheduler may wake it where it ran last though another thread runs there
// and other CPUs are idle, and leave it there for milliseconds.
struct Thread {
  std::atomic<pid_t> id{0};
  std::atomic<int> cpu{-1};  // where it ran last

  // Moves it off the CPU of the calling thread, to others that this one may use.
  void leave(int cpu_of_caller) const {
    const pid_t thread = id.load(std::memory_order_relaxed);
    if (!thread || cpu.load(std::memory_order_relaxed) != cpu_of_caller) return;
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
    CPU_CLR(cpu_of_caller, &allowed);
    if (CPU_COUNT(&allowed)) sched_setaffinity(thread, sizeof allowed, &allowed);
  }
};

class Pool {
 public:
  bool run(const ParallelLoop& loop, int workers) {
    std::unique_lock<std::mutex> turn(turn_, std::try_to_lock);
    const std::ptrdiff_t useful = loop.count < most_threads ? loop.count : most_threads;
    if (workers > useful) workers = int(useful);
    if (!turn.owns_lock() || workers < 2 || !start_threads(workers - 1)) workers = 1;
    if (workers == 1) {
      Share all[1] = {{0, loop.count}};
      return work_and_watch(loop, all, 1);
    }
    {
      std::lock_guard<std::mutex> lock(mutex_);
      for (int i = 0; i < workers; ++i) {
        shares_[i].next.store(loop.count * i / workers, std::memory_order_relaxed);
        shares_[i].end = loop.count * (i + 1) / workers;
      }
      loop_ = &loop;
      workers_ = workers;
      vacancies_ = workers - 1;
      round_.fetch_add(1, std::memory_order_release);
    }
    const int here = sched_getcpu();
    for (const Thread& thread : threads_) thread.leave(here);
    for (int i = 1; i < workers; ++i) wake_.notify_one();
    const bool completed = work_and_watch(loop, shares_, workers);
    std::unique_lock<std::mutex> lock(mutex_);
    vacancies_ = 0;  // whoever has not come by now need not
    if (busy_ > 0) {
      lock.unlock();
      wait_awake([this] { return busy_.load(std::memory_order_acquire) == 0; }, last_task_time);
      lock.lock();
    }
    done_.wait(lock, [this] { return busy_ == 0; });
    loop_ = nullptr;
    return completed;
  }

 private:
  // Tasks next to each other, which one thread begins with, and others go on with when they have
  // done theirs: a loop that comes again finds what it reads and writes in the same caches.
  struct alignas(64) Share {
    std::atomic<std::ptrdiff_t> next{0};
    std::ptrdiff_t end = 0;
  };

  // The tasks for one thread, one after the other.
  class Tasks {
   public:
    Tasks(Share* shares, int count, int mine) : shares_(shares), count_(count), at_(mine) {}
    // The next one; -1: none are left.
    std::ptrdiff_t take() {
      for (; done_ < count_; ++done_, at_ = at_ + 1 == count_ ? 0 : at_ + 1) {
        const std::ptrdiff_t i = shares_[at_].next.fetch_add(1, std::memory_order_relaxed);
        if (i < shares_[at_].end) return i;
      }
      return -1;
    }

   private:
    Share* shares_;
    int count_, at_, done_ = 0;
  };

  // The calling thread's part, which also looks for signals.
  bool work_and_watch(const ParallelLoop& loop, Share* shares, int count) {
    auto looked = Clock::now();
    Tasks tasks(shares, count, 0);
    for (;;) {
      const std::ptrdiff_t i = tasks.take();
      if (i < 0) return true;
      loop.task(loop.context, 0, i);
      if (!loop.interrupted) continue;
      const auto now = Clock::now();
      if (now - looked < signal_period) continue;
      looked = now;
      if (loop.interrupted()) {
        for (int k = 0; k < count; ++k)
          shares[k].next.store(shares[k].end, std::memory_order_relaxed);
        return false;
      }
    }
  }

  void serve(Thread& self) {
    take_short_turns();
    self.id.store(pid_t(syscall(SYS_gettid)), std::memory_order_relaxed);
    unsigned seen = 0;
    for (;;) {
      wait_awake([&] { return round_.load(std::memory_order_acquire) != seen; }, next_loop_time);
      std::unique_lock<std::mutex> lock(mutex_);
      wake_.wait(lock, [this] { return vacancies_ > 0; });
      seen = round_.load(std::memory_order_relaxed);
      const int worker = vacancies_--;
      const ParallelLoop& loop = *loop_;
      Tasks tasks(shares_, workers_, worker);
      ++busy_;
      lock.unlock();
      self.cpu.store(sched_getcpu(), std::memory_order_relaxed);
      for (;;) {
        const std::ptrdiff_t i = tasks.take();
        if (i < 0) break;
        loop.task(loop.context, worker, i);
      }
      lock.lock();
      if (--busy_ == 0) done_.notify_one();
    }
  }

  bool start_threads(int wanted) {
    try {
      while (int(threads_.size()) < wanted) {
        Thread& thread = threads_.emplace_back();
        std::thread([this, &thread] { serve(thread); }).detach();
      }
    } catch (const std::system_error&) {  // the limit of processes or of memory
      threads_.pop_back();
    }
    return !threads_.empty();
  }

  std::mutex turn_;  // held by the thread whose loop runs
  std::deque<Thread> threads_;

  std::mutex mutex_;  // guards what follows, but for the atomics
  std::condition_variable wake_, done_;
  const ParallelLoop* loop_ = nullptr;
  int workers_ = 0;           // of the loop,
  int vacancies_ = 0;         // and threads that may still join
  std::atomic<int> busy_{0};  // threads that have joined and not finished
  std::atomic<unsigned> round_{0};
  Share shares_[most_threads];
};

// Never destroyed: its threads sleep until the process ends.
std::atomic<Pool*> shared_pool{nullptr};

// The child of a fork has none of the threads, and its copy of the locks may be held for ever: it
// starts with a new pool.  The old one is given up, some 16 KB per fork.
void forget_pool() { shared_pool.store(nullptr, std::memory_order_relaxed); }

Pool& pool() {
  Pool* current = shared_pool.load(std::memory_order_acquire);
  if (current) return *current;
  static const int registered = pthread_atfork(nullptr, nullptr, forget_pool);
  (void)registered;
  Pool* made = new Pool;
  if (shared_pool.compare_exchange_strong(current, made)) return *made;
  delete made;
  return *current;
}

// CPUs' worth of time per period that the control group grants, or 0 where it sets no limit.
double quota() {
  double limit = 0, period = 0;
  if (std::FILE* file = std::fopen("/sys/fs/cgroup/cpu.max", "r")) {
    if (std::fscanf(file, "%lf %lf", &limit, &period) != 2) limit = 0;
    std::fclose(file);
  } else {
    const char* const names[2] = {"/sys/fs/cgroup/cpu/cpu.cfs_quota_us",
                                  "/sys/fs/cgroup/cpu/cpu.cfs_period_us"};
    double* const values[2] = {&limit, &period};
    for (int i = 0; i < 2; ++i) {
      std::FILE* file_v1 = std::fopen(names[i], "r");
      if (!file_v1) return 0;
      if (std::fscanf(file_v1, "%lf", values[i]) != 1) *values[i] = 0;
      std::fclose(file_v1);
    }
  }
  return limit > 0 && period > 0 ? limit / period : 0;
}

}  // namespace

int cpu_count() {
  if (const char* wanted = std::getenv("XCONV_NUM_THREADS")) {
    char* end = nullptr;
    const long n = std::strtol(wanted, &end, 10);
    if (end != wanted && *end == 0 && n >= 1) return int(n < most_threads ? n : most_threads);
  }
  cpu_set_t set;
  int count = int(std::thread::hardware_concurrency());
  if (sched_getaffinity(0, sizeof set, &set) == 0) count = CPU_COUNT(&set);
  const double granted = quota();
  if (granted > 0 && granted < count) count = int(granted + 0.5);
  return count < 1 ? 1 : count;
}

bool run_loop(const ParallelLoop& loop, int workers) { return pool().run(loop, workers); }

}  // namespace xconv
