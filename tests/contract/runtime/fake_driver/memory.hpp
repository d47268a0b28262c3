// Device memory and pinned memory, both on the host. New memory is filled with one pattern, freed memory with another;
// freed blocks are never reused, so whoever still reads one finds the pattern, not somebody else's values.
#pragma once
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

constexpr unsigned char NEW = 0xCD, FREED = 0xDD;
constexpr size_t ALIGNMENT = 4096;

class Blocks {
 public:
  explicit Blocks(std::atomic<long>& bytes) : bytes_(bytes) {}

  void* allocate(size_t bytes) {
    void* block = std::aligned_alloc(ALIGNMENT, (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT);
    std::memset(block, NEW, bytes);
    std::lock_guard<std::mutex> hold(mutex_);
    live_[reinterpret_cast<uintptr_t>(block)] = bytes;
    bytes_ += static_cast<long>(bytes);
    return block;
  }

  // Whether there was such a block.
  bool free(void* block) {
    std::lock_guard<std::mutex> hold(mutex_);
    auto found = live_.find(reinterpret_cast<uintptr_t>(block));
    if (found == live_.end()) return false;
    std::memset(block, FREED, found->second);
    bytes_ -= static_cast<long>(found->second);
    live_.erase(found);
    return true;
  }

  // Whether all of these bytes lie in one live block.
  bool holds(const void* first, size_t bytes) {
    const auto address = reinterpret_cast<uintptr_t>(first);
    std::lock_guard<std::mutex> hold(mutex_);
    auto after = live_.upper_bound(address);
    if (after == live_.begin()) return false;
    const auto& [start, size] = *std::prev(after);
    return address + bytes <= start + size;
  }

 private:
  std::mutex mutex_;
  std::map<uintptr_t, size_t> live_;  // bytes by address
  std::atomic<long>& bytes_;
};
