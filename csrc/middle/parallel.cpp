// OpenMP regions that pass exceptions on and survive a fork.
//
// NOTE [After a fork]
// The child of a fork has one thread, but libgomp still believes in the parent's pool: its
// next parallel region waits for threads that do not exist. Children therefore run serially
// for good. (DataLoader workers do so anyway.)

#include "parallel.h"

#include <atomic>
#include <exception>

#ifdef _OPENMP
#include <omp.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace tce {

namespace {

std::atomic<bool> forked{false};

#if defined(__unix__) || defined(__APPLE__)
[[maybe_unused]] const int fork_handler = pthread_atfork(nullptr, nullptr, [] { forked.store(true); });
#endif

}  // namespace

void parallel_for(int64_t items, int threads, const std::function<void(int64_t)>& job) {
#ifdef _OPENMP
  if (threads > 1 && items > 1 && !omp_in_parallel() && !forked.load(std::memory_order_relaxed)) {
    std::exception_ptr error;
    const int team = static_cast<int>(items < threads ? items : threads);
    // Dynamic: where another process slows one core down, the others take over its items.
#pragma omp parallel for num_threads(team) schedule(dynamic, 1)
    for (int64_t i = 0; i < items; ++i) {
      try {
        job(i);
      } catch (...) {
#pragma omp critical(tce_parallel_error)
        if (!error) error = std::current_exception();
      }
    }
    if (error) std::rethrow_exception(error);
    return;
  }
#else
  (void)threads;
#endif
  for (int64_t i = 0; i < items; ++i) job(i);
}

int team_size(int threads) {
  int size = 1;
#ifdef _OPENMP
  if (forked.load()) return 1;
#pragma omp parallel num_threads(threads)
#pragma omp single
  size = omp_get_num_threads();
#else
  (void)threads;
#endif
  return size;
}

int openmp_version() {
#ifdef _OPENMP
  return _OPENMP;
#else
  return 0;
#endif
}

}  // namespace tce
