// What tests ask for afterwards: what is still alive, and what was done that should not have been.
#pragma once
#include <array>
#include <atomic>

struct Census {
  std::atomic<long> streams{0};
  std::atomic<long> events{0};
  std::atomic<long> device_bytes{0};
  std::atomic<long> pinned_bytes{0};
  std::atomic<long> pushed_contexts{0};  // over all threads

  std::atomic<long> calls_without_context{0};
  std::atomic<long> pageable_copies{0};       // asynchronous in name only
  std::atomic<long> default_stream_calls{0};  // ordered with nothing that a non-blocking stream does
  std::atomic<long> blocking_streams{0};      // created; they wait for the default stream
  std::atomic<long> spinning_waits{0};        // for an event that does not let its waiter sleep

  std::array<const std::atomic<long>*, 10> in_order() const {
    return {&streams,           &events,          &device_bytes,         &pinned_bytes,     &pushed_contexts,
            &calls_without_context, &pageable_copies, &default_stream_calls, &blocking_streams, &spinning_waits};
  }
};

// Never destroyed, like all state here: threads of streams may outlive `main`.
inline Census& census() {
  static Census* const only = new Census;
  return *only;
}
