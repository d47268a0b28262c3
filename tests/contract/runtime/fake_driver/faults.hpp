// Errors on demand, and the state that some of them leave behind for good.
#pragma once
#include <cuda.h>

#include <atomic>

class Faults {
 public:
  // Why the context is lost, or CUDA_SUCCESS. Every call fails with it from then on.
  CUresult lost() const { return lost_; }

  void lose(CUresult why) {
    CUresult alive = CUDA_SUCCESS;
    lost_.compare_exchange_strong(alive, why);  // the first reason stays
  }

  // From the n-th allocation on (the next is 1) there is no memory; 0 takes that back. One alone would not do: pycuda
  // tries again.
  void fail_allocations_from(int n) { allocations_left_ = n; }
  bool allocation_fails() {
    if (allocations_left_ == 1) return true;
    if (allocations_left_ > 1) --allocations_left_;
    return false;
  }

  // Whether to push and pop a lost context are errors, though it is popped: the documentation allows both.
  std::atomic<bool> stack_fails{false};

  // The n-th launch from now on loses the context, once it would run.
  void fail_launch(int n, CUresult how) {
    launch_error_ = how;
    launches_left_ = n;
  }
  CUresult next_launch() { return counts_down_to_zero(launches_left_) ? launch_error_.load() : CUDA_SUCCESS; }

 private:
  static bool counts_down_to_zero(std::atomic<int>& left) { return left > 0 && --left == 0; }

  std::atomic<CUresult> lost_{CUDA_SUCCESS};
  std::atomic<int> allocations_left_{0};
  std::atomic<int> launches_left_{0};
  std::atomic<CUresult> launch_error_{CUDA_SUCCESS};
};

inline Faults& faults() {
  static Faults* const only = new Faults;
  return *only;
}
