// NVIDIA's management library for the cards of the fake driver: what the real `pynvml` needs for power and clocks.
//
// Card n draws 70 + 10 n watts, always. FAKE_NVML_LACKS names a counter that it doesn't have (`energy`, `clocks`), and
// FAKE_NVML_REASONS are the bits of why clocks are held down.
#include <chrono>

#include "../fake_driver/cards.hpp"

namespace {

enum Return { SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6 };
enum Clock { SM = 1, MEMORY = 2 };

constexpr unsigned MW_OF_FIRST = 70000, MW_MORE_OF_NEXT = 10000, LIMIT_MW = 150000;
constexpr unsigned SM_MHZ = 1590, MEMORY_MHZ = 5001;

bool is_initialized = false;
const auto loaded = std::chrono::steady_clock::now();

// The handle of a card: a card number, and no pointer that means anything.
void* handle_of(const Card& card) { return reinterpret_cast<void*>(static_cast<intptr_t>(card.number + 1)); }
unsigned milliwatts(void* handle) {
  return MW_OF_FIRST + MW_MORE_OF_NEXT * static_cast<unsigned>(reinterpret_cast<intptr_t>(handle) - 1);
}

bool lacks(const char* counter) {
  const char* list = std::getenv("FAKE_NVML_LACKS");
  return list && std::strstr(list, counter);
}

Return answer(void* handle, const char* counter) {
  if (!is_initialized) return UNINITIALIZED;
  if (!handle) return INVALID_ARGUMENT;
  return lacks(counter) ? NOT_SUPPORTED : SUCCESS;
}

}  // namespace

extern "C" {

int nvmlInitWithFlags(unsigned) {
  is_initialized = true;
  return SUCCESS;
}

int nvmlShutdown() {
  is_initialized = false;
  return SUCCESS;
}

const char* nvmlErrorString(int) { return "a fake error"; }

// Of all cards, whatever CUDA_VISIBLE_DEVICES says: NVML doesn't know it.
int nvmlDeviceGetHandleByUUID(const char* uuid, void** handle) {
  if (!is_initialized) return UNINITIALIZED;
  for (const Card& card : all_cards())
    if (text_of_uuid(card) == uuid) {
      *handle = handle_of(card);
      return SUCCESS;
    }
  return NOT_FOUND;
}

int nvmlDeviceGetPowerUsage(void* handle, unsigned* power_mw) {
  *power_mw = milliwatts(handle);
  return answer(handle, "power");
}

int nvmlDeviceGetEnforcedPowerLimit(void* handle, unsigned* limit_mw) {
  *limit_mw = LIMIT_MW;
  return answer(handle, "limit");
}

int nvmlDeviceGetTotalEnergyConsumption(void* handle, unsigned long long* energy_mj) {
  const std::chrono::duration<double> since = std::chrono::steady_clock::now() - loaded;
  *energy_mj = static_cast<unsigned long long>(milliwatts(handle) * since.count());
  return answer(handle, "energy");
}

int nvmlDeviceGetClockInfo(void* handle, int clock, unsigned* mhz) {
  *mhz = clock == SM ? SM_MHZ : MEMORY_MHZ;
  return clock == SM || clock == MEMORY ? answer(handle, "clocks") : INVALID_ARGUMENT;
}

int nvmlDeviceGetCurrentClocksEventReasons(void* handle, unsigned long long* reasons) {
  *reasons = static_cast<unsigned long long>(number_of("FAKE_NVML_REASONS", 0));
  return answer(handle, "reasons");
}
}
