// Streams are threads that do one thing after another, so what must be waited for and isn't really is too early.
#pragma once
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

using Clock = std::chrono::steady_clock;

// How long units were busy: each by itself, and any of them. Where nothing overlaps, both are the same; how long the host
// takes in between counts for neither.
class Meter {
 public:
  void begin() { change(+1); }
  void end() { change(-1); }

  void read(double* each_s, double* any_s) {
    std::lock_guard<std::mutex> hold(mutex_);
    *each_s = each_s_;
    *any_s = any_s_;
  }

 private:
  void change(int by) {
    std::lock_guard<std::mutex> hold(mutex_);
    const auto now = Clock::now();
    const double passed_s = std::chrono::duration<double>(now - changed_).count();
    each_s_ += passed_s * busy_;
    if (busy_) any_s_ += passed_s;
    busy_ += by;
    changed_ = now;
  }

  std::mutex mutex_;
  Clock::time_point changed_ = Clock::now();
  int busy_ = 0;
  double each_s_ = 0, any_s_ = 0;
};

inline Meter& meter() {
  static Meter* const only = new Meter;
  return *only;
}

// A part of a device that does one thing at a time, whichever stream it is for.
class Unit {
 public:
  void set_delay_us(long delay_us) { delay_us_ = delay_us; }

  void use(const std::function<void()>& work) {
    std::lock_guard<std::mutex> hold(mutex_);
    meter().begin();
    if (delay_us_ > 0) std::this_thread::sleep_for(std::chrono::microseconds(delay_us_));
    work();
    meter().end();
  }

 private:
  std::mutex mutex_;
  std::atomic<long> delay_us_{0};
};

struct CUstream_st : std::enable_shared_from_this<CUstream_st> {
  static std::shared_ptr<CUstream_st> start() {
    auto stream = std::make_shared<CUstream_st>();
    std::thread([stream] { stream->work(); }).detach();
    return stream;
  }

  void push(std::function<void()> work) {
    std::lock_guard<std::mutex> hold(mutex_);
    queue_.push_back(std::move(work));
    changed_.notify_all();
  }

  bool is_idle() {
    std::lock_guard<std::mutex> hold(mutex_);
    return queue_.empty() && !is_busy_;
  }

  void wait() {
    std::unique_lock<std::mutex> hold(mutex_);
    changed_.wait(hold, [this] { return queue_.empty() && !is_busy_; });
  }

  // Returns at once, as the driver does; what is queued is still done.
  void close() {
    std::lock_guard<std::mutex> hold(mutex_);
    is_closed_ = true;
    changed_.notify_all();
  }

 private:
  void work() {
    std::unique_lock<std::mutex> hold(mutex_);
    for (;;) {
      changed_.wait(hold, [this] { return is_closed_ || !queue_.empty(); });
      if (queue_.empty()) return;
      auto next = std::move(queue_.front());
      queue_.pop_front();
      is_busy_ = true;
      hold.unlock();
      next();
      hold.lock();
      is_busy_ = false;
      changed_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> queue_;
  bool is_busy_ = false, is_closed_ = false;
};

// An event that was never recorded counts as fired, as the driver has it.
struct EventState {
  std::mutex mutex;
  std::condition_variable fired;
  uint64_t recorded = 0, reached = 0;
  Clock::time_point at;

  uint64_t record() {
    std::lock_guard<std::mutex> hold(mutex);
    return ++recorded;
  }

  void reach(uint64_t record) {
    std::lock_guard<std::mutex> hold(mutex);
    reached = record;
    at = Clock::now();
    fired.notify_all();
  }

  bool has_fired() {
    std::lock_guard<std::mutex> hold(mutex);
    return reached >= recorded;
  }

  void wait() {
    std::unique_lock<std::mutex> hold(mutex);
    const auto last = recorded;
    fired.wait(hold, [&] { return reached >= last; });
  }
};

struct CUevent_st {
  std::shared_ptr<EventState> state = std::make_shared<EventState>();
  bool lets_sleep = false, is_timed = true;
};
