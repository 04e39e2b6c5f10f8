// OpenMP, in one place.

#pragma once

#include <cstdint>
#include <functional>

namespace tce {

// Calls job(i) once for each 0 <= i < items, from up to `threads` threads. Items must write
// disjoint memory, so that who runs what never shows in a result. An exception in a job is
// rethrown here. Runs on the calling thread alone where threads == 1, inside another parallel
// region, and in a forked child (NOTE [After a fork]).
void parallel_for(int64_t items, int threads, const std::function<void(int64_t)>& job);

// The number of threads that an OpenMP region of `threads` really gets; 1 in a build without OpenMP.
int team_size(int threads);

// The OpenMP version the core was compiled with (the value of _OPENMP), 0
// without: such a build is silently serial.
int openmp_version();

}  // namespace tce
