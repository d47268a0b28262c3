// A CUDA driver in host memory: what pycuda needs to run contexts, streams, events, pinned memory and copies.
//
// It is a model of rules, not of speed: who must wait for whom, which memory is whose, and what is left over. One unit
// copies in, one copies out, one computes, and copies within the device take no time; a delay can be put on each, by a call or by FAKE_CUDA_COPY_US and
// FAKE_CUDA_COMPUTE_US, so that overlap shows in time. Which devices there are is up to cards.hpp. Entry points that are
// not here answer CUDA_ERROR_NOT_SUPPORTED (see toolchain.py). What blocking streams wait for is not modelled.
#include <cuda.h>

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <set>
#include <string>
#include <vector>

#include "cards.hpp"
#include "census.hpp"
#include "faults.hpp"
#include "memory.hpp"
#include "streams.hpp"

namespace {

constexpr int DRIVER_VERSION = 12090;

template <class T, class... Arguments>
T& immortal(Arguments&... arguments) {
  return *new T(arguments...);
}

Blocks& device_memory = immortal<Blocks>(census().device_bytes);
Blocks& pinned_memory = immortal<Blocks>(census().pinned_bytes);
Unit &copies_in = immortal<Unit>(), &computes = immortal<Unit>(), &copies_out = immortal<Unit>();

std::atomic<long>& copied_in_bytes = immortal<std::atomic<long>>();
std::atomic<long>& copied_out_bytes = immortal<std::atomic<long>>();
std::atomic<long>& copied_within_bytes = immortal<std::atomic<long>>();

std::mutex& streams_mutex = immortal<std::mutex>();
auto& streams = immortal<std::set<std::shared_ptr<CUstream_st>>>();
auto& default_stream = immortal<std::shared_ptr<CUstream_st>>();

std::atomic<bool> is_initialized{false};
thread_local std::vector<CUcontext> pushed;

void* pointer(CUdeviceptr address) { return reinterpret_cast<void*>(address); }

// Most calls: in a context, and not once it is lost. An error that turns up meanwhile is told, too.
template <class Body>
CUresult in_context(Body body) {
  if (!is_initialized) return CUDA_ERROR_NOT_INITIALIZED;
  if (pushed.empty()) {
    ++census().calls_without_context;
    return CUDA_ERROR_INVALID_CONTEXT;
  }
  if (faults().lost()) return faults().lost();
  const CUresult status = body();
  return faults().lost() ? faults().lost() : status;
}

template <class Body>
CUresult initialized(Body body) {
  return is_initialized ? body() : CUDA_ERROR_NOT_INITIALIZED;
}

std::shared_ptr<CUstream_st> find(CUstream handle) {
  std::lock_guard<std::mutex> hold(streams_mutex);
  if (handle == nullptr) {
    ++census().default_stream_calls;
    if (!default_stream) default_stream = CUstream_st::start();
    return default_stream;
  }
  for (const auto& stream : streams)
    if (stream.get() == handle) return stream;
  return nullptr;
}

// Calls that are about a stream.
template <class Body>
CUresult on_stream(CUstream handle, Body body) {
  return in_context([&] {
    const auto stream = find(handle);
    return stream ? body(*stream) : CUDA_ERROR_INVALID_HANDLE;
  });
}

void wait_for_all() {
  std::vector<std::shared_ptr<CUstream_st>> all;
  {
    std::lock_guard<std::mutex> hold(streams_mutex);
    all.assign(streams.begin(), streams.end());
    if (default_stream) all.push_back(default_stream);
  }
  for (const auto& stream : all) stream->wait();
}

struct Copy {
  void* to;
  const void* from;
  size_t bytes;
  const void* on_device;  // one of the two
  const void* on_host;
  Unit& unit;
  std::atomic<long>& copied_bytes;

  bool is_valid() const { return device_memory.holds(on_device, bytes); }
  bool is_pinned() const { return pinned_memory.holds(on_host, bytes); }

  // Memory that was freed meanwhile is no longer there.
  void run(bool must_be_pinned) const {
    unit.use([this, must_be_pinned] {
      if (faults().lost()) return;
      if (is_valid() && (!must_be_pinned || is_pinned())) {
        std::memcpy(to, from, bytes);
        copied_bytes += static_cast<long>(bytes);
      } else {
        faults().lose(CUDA_ERROR_ILLEGAL_ADDRESS);
      }
    });
  }
};

Copy copy_in(CUdeviceptr to, const void* from, size_t bytes) {
  return {pointer(to), from, bytes, pointer(to), from, copies_in, copied_in_bytes};
}

Copy copy_out(void* to, CUdeviceptr from, size_t bytes) {
  return {to, pointer(from), bytes, pointer(from), to, copies_out, copied_out_bytes};
}

// From or to pageable memory the driver stages the copy: the caller waits until all before it and itself are done.
CUresult copy_on(CUstream handle, const Copy& copy) {
  return on_stream(handle, [&](CUstream_st& stream) {
    if (!copy.is_valid()) return CUDA_ERROR_INVALID_VALUE;
    if (copy.is_pinned()) {
      stream.push([copy] { copy.run(true); });
    } else {
      ++census().pageable_copies;
      stream.wait();
      copy.run(false);
    }
    return CUDA_SUCCESS;
  });
}

CUresult copy_now(const Copy& copy) {
  return on_stream(nullptr, [&](CUstream_st& stream) {
    if (!copy.is_valid()) return CUDA_ERROR_INVALID_VALUE;
    stream.wait();
    copy.run(false);
    return CUDA_SUCCESS;
  });
}

CUresult allocate(void** block, size_t bytes, Blocks& memory) {
  return in_context([&] {
    if (bytes == 0) return CUDA_ERROR_INVALID_VALUE;
    const bool is_full = static_cast<size_t>(census().device_bytes) + bytes > MEMORY_BYTES;
    if (is_full || faults().allocation_fails()) return CUDA_ERROR_OUT_OF_MEMORY;
    *block = memory.allocate(bytes);
    return CUDA_SUCCESS;
  });
}

CUresult release(void* block, Blocks& memory) {
  return in_context([&] { return memory.free(block) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE; });
}

const char* text_of(CUresult error) {
  switch (error) {
    case CUDA_SUCCESS: return "no error";
    case CUDA_ERROR_INVALID_VALUE: return "invalid argument";
    case CUDA_ERROR_OUT_OF_MEMORY: return "out of memory";
    case CUDA_ERROR_NOT_INITIALIZED: return "initialization error";
    case CUDA_ERROR_INVALID_DEVICE: return "invalid device ordinal";
    case CUDA_ERROR_INVALID_CONTEXT: return "invalid device context";
    case CUDA_ERROR_ECC_UNCORRECTABLE: return "uncorrectable ECC error encountered";
    case CUDA_ERROR_INVALID_HANDLE: return "invalid resource handle";
    case CUDA_ERROR_NOT_READY: return "device not ready";
    case CUDA_ERROR_ILLEGAL_ADDRESS: return "an illegal memory access was encountered";
    case CUDA_ERROR_LAUNCH_FAILED: return "unspecified launch failure";
    case CUDA_ERROR_CONTEXT_IS_DESTROYED: return "context is destroyed";
    case CUDA_ERROR_NOT_SUPPORTED: return "operation not supported";
    default: return "unknown error";  // never null: pycuda doesn't look
  }
}

}  // namespace

struct CUctx_st {};
static CUctx_st primary;

// --- the driver and its devices, which share all but their facts: contexts and memory are those of one

// Leaves a census, in a file named after the process, in the directory that FAKE_CUDA_CENSUS names.
static void leave_census() {
  const char* directory = std::getenv("FAKE_CUDA_CENSUS");
  FILE* file = directory ? std::fopen((std::string(directory) + "/" + std::to_string(getpid())).c_str(), "w") : nullptr;
  if (!file) return;
  for (const auto* count : census().in_order()) std::fprintf(file, "%ld\n", count->load());
  std::fclose(file);
}

CUresult cuInit(unsigned) {
  if (!is_initialized.exchange(true)) {
    for (Unit* copies : {&copies_in, &copies_out}) copies->set_delay_us(number_of("FAKE_CUDA_COPY_US", 0));
    computes.set_delay_us(number_of("FAKE_CUDA_COMPUTE_US", 0));
    std::atexit(leave_census);
  }
  if (visible_cards().empty()) return CUDA_ERROR_NO_DEVICE;
  return CUDA_SUCCESS;
}

CUresult cuDriverGetVersion(int* version) {
  *version = DRIVER_VERSION;
  return CUDA_SUCCESS;
}

CUresult cuGetErrorString(CUresult error, const char** text) {
  *text = text_of(error);
  return CUDA_SUCCESS;
}

CUresult cuGetErrorName(CUresult error, const char** name) {
  *name = text_of(error);
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetCount(int* count) {
  return initialized([&] {
    *count = static_cast<int>(visible_cards().size());
    return CUDA_SUCCESS;
  });
}

CUresult cuDeviceGet(CUdevice* device, int ordinal) {
  return initialized([&] {
    *device = ordinal;
    return card_of(ordinal) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
  });
}

CUresult cuDeviceGetName(char* name, int bytes, CUdevice device) {
  return of_card(device, [&](const Card& card) { std::strncpy(name, card.name.c_str(), static_cast<size_t>(bytes)); });
}

CUresult cuDeviceGetPCIBusId(char* id, int bytes, CUdevice device) {
  return of_card(device, [&](const Card& card) {
    std::snprintf(id, static_cast<size_t>(bytes), "0000:%02x:00.0", card.number);
  });
}

CUresult cuDeviceGetUuid(CUuuid* uuid, CUdevice device) {
  return of_card(device, [&](const Card& card) { write_uuid(uuid, card.number, 0); });
}

CUresult cuDeviceGetUuid_v2(CUuuid* uuid, CUdevice device) {
  return of_card(device, [&](const Card& card) { write_uuid(uuid, card.number, card.slice); });
}

CUresult cuDeviceTotalMem(size_t* bytes, CUdevice device) {
  return of_card(device, [&](const Card& card) { *bytes = card.memory_bytes; });
}

CUresult cuDeviceComputeCapability(int* major, int* minor, CUdevice) {
  *major = *minor = 0;  // no real one, lest it be taken for a device
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice device) {
  return of_card(device, [&](const Card& card) {
    *value = attribute == CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT ? card.multiprocessors : 1;
  });
}

// --- its context: one, the primary one

CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice) {
  *context = &primary;
  return faults().lost();
}

CUresult cuDevicePrimaryCtxRelease(CUdevice) { return CUDA_SUCCESS; }

CUresult cuCtxPushCurrent(CUcontext context) {
  if (!is_initialized) return CUDA_ERROR_NOT_INITIALIZED;
  if (faults().stack_fails && faults().lost()) return faults().lost();
  pushed.push_back(context);
  ++census().pushed_contexts;
  return CUDA_SUCCESS;
}

CUresult cuCtxPopCurrent(CUcontext* context) {
  if (pushed.empty()) return CUDA_ERROR_INVALID_CONTEXT;
  *context = pushed.back();
  pushed.pop_back();
  --census().pushed_contexts;
  return faults().stack_fails ? faults().lost() : CUDA_SUCCESS;
}

CUresult cuCtxGetDevice(CUdevice* device) {
  return in_context([&] {
    *device = 0;
    return CUDA_SUCCESS;
  });
}

CUresult cuCtxSynchronize() {
  return in_context([] {
    wait_for_all();
    return CUDA_SUCCESS;
  });
}

// --- memory. To free does not wait for streams: memory that is still used is an error here, where the driver would wait.

CUresult cuMemAlloc(CUdeviceptr* address, size_t bytes) {
  return allocate(reinterpret_cast<void**>(address), bytes, device_memory);
}

CUresult cuMemFree(CUdeviceptr address) { return release(pointer(address), device_memory); }

CUresult cuMemHostAlloc(void** block, size_t bytes, unsigned) { return allocate(block, bytes, pinned_memory); }

CUresult cuMemFreeHost(void* block) { return release(block, pinned_memory); }

CUresult cuMemGetInfo(size_t* free_bytes, size_t* total_bytes) {
  return in_context([&] {
    *total_bytes = MEMORY_BYTES;
    *free_bytes = MEMORY_BYTES - static_cast<size_t>(census().device_bytes);
    return CUDA_SUCCESS;
  });
}

CUresult cuMemcpyHtoD(CUdeviceptr to, const void* from, size_t bytes) { return copy_now(copy_in(to, from, bytes)); }

CUresult cuMemcpyDtoH(void* to, CUdeviceptr from, size_t bytes) { return copy_now(copy_out(to, from, bytes)); }

CUresult cuMemcpyHtoDAsync(CUdeviceptr to, const void* from, size_t bytes, CUstream stream) {
  return copy_on(stream, copy_in(to, from, bytes));
}

CUresult cuMemcpyDtoHAsync(void* to, CUdeviceptr from, size_t bytes, CUstream stream) {
  return copy_on(stream, copy_out(to, from, bytes));
}

CUresult cuMemcpyDtoDAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
  const auto are_valid = [=] { return device_memory.holds(pointer(to), bytes) && device_memory.holds(pointer(from), bytes); };
  return on_stream(stream, [&](CUstream_st& on) {
    if (!are_valid()) return CUDA_ERROR_INVALID_VALUE;
    on.push([=] {
      if (faults().lost()) return;
      if (!are_valid()) return faults().lose(CUDA_ERROR_ILLEGAL_ADDRESS);
      std::memcpy(pointer(to), pointer(from), bytes);
      copied_within_bytes += static_cast<long>(bytes);
    });
    return CUDA_SUCCESS;
  });
}

// --- streams

CUresult cuStreamCreate(CUstream* handle, unsigned flags) {
  return in_context([&] {
    if (!(flags & CU_STREAM_NON_BLOCKING)) ++census().blocking_streams;
    auto stream = CUstream_st::start();
    *handle = stream.get();
    std::lock_guard<std::mutex> hold(streams_mutex);
    streams.insert(std::move(stream));
    ++census().streams;
    return CUDA_SUCCESS;
  });
}

CUresult cuStreamDestroy(CUstream handle) {
  return on_stream(handle, [&](CUstream_st& stream) {
    stream.close();
    std::lock_guard<std::mutex> hold(streams_mutex);
    streams.erase(stream.shared_from_this());
    --census().streams;
    return CUDA_SUCCESS;
  });
}

CUresult cuStreamQuery(CUstream handle) {
  return on_stream(handle, [](CUstream_st& stream) { return stream.is_idle() ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY; });
}

CUresult cuStreamSynchronize(CUstream handle) {
  return on_stream(handle, [](CUstream_st& stream) {
    stream.wait();
    return CUDA_SUCCESS;
  });
}

CUresult cuStreamWaitEvent(CUstream handle, CUevent event, unsigned) {
  return on_stream(handle, [&](CUstream_st& stream) {
    stream.push([state = event->state] { state->wait(); });
    return CUDA_SUCCESS;
  });
}

// Stands for a kernel: what doubles of libraries run on the device goes through it.
CUresult cuLaunchHostFunc(CUstream handle, CUhostFn function, void* data) {
  return on_stream(handle, [&](CUstream_st& stream) {
    const CUresult failure = faults().next_launch();
    stream.push([=] {
      computes.use([=] {
        if (failure) faults().lose(failure);
        if (!faults().lost()) function(data);
      });
    });
    return CUDA_SUCCESS;
  });
}

// --- events

CUresult cuEventCreate(CUevent* event, unsigned flags) {
  return in_context([&] {
    *event = new CUevent_st;
    (*event)->lets_sleep = flags & CU_EVENT_BLOCKING_SYNC;
    (*event)->is_timed = !(flags & CU_EVENT_DISABLE_TIMING);
    ++census().events;
    return CUDA_SUCCESS;
  });
}

CUresult cuEventDestroy(CUevent event) {
  return in_context([&] {
    delete event;
    --census().events;
    return CUDA_SUCCESS;
  });
}

CUresult cuEventRecord(CUevent event, CUstream handle) {
  return on_stream(handle, [&](CUstream_st& stream) {
    stream.push([state = event->state, record = event->state->record()] { state->reach(record); });
    return CUDA_SUCCESS;
  });
}

CUresult cuEventQuery(CUevent event) {
  return in_context([&] { return event->state->has_fired() ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY; });
}

CUresult cuEventSynchronize(CUevent event) {
  return in_context([&] {
    if (!event->lets_sleep) ++census().spinning_waits;
    event->state->wait();
    return CUDA_SUCCESS;
  });
}

CUresult cuEventElapsedTime(float* elapsed_ms, CUevent first, CUevent last) {
  return in_context([&] {
    if (!first->is_timed || !last->is_timed || !first->state->recorded || !last->state->recorded)
      return CUDA_ERROR_INVALID_HANDLE;
    if (!first->state->has_fired() || !last->state->has_fired()) return CUDA_ERROR_NOT_READY;
    *elapsed_ms = std::chrono::duration<float, std::milli>(last->state->at - first->state->at).count();
    return CUDA_SUCCESS;
  });
}

// --- for tests

extern "C" {

void fake_set_copy_delay_us(long delay_us) {
  copies_in.set_delay_us(delay_us);
  copies_out.set_delay_us(delay_us);
}

void fake_set_compute_delay_us(long delay_us) { computes.set_delay_us(delay_us); }

void fake_fail_allocations_from(int n) { faults().fail_allocations_from(n); }

void fake_have_stack_fail() { faults().stack_fails = true; }

void fake_fail_launch(int n, int error) { faults().fail_launch(n, static_cast<CUresult>(error)); }

void fake_lose_context(int error) { faults().lose(static_cast<CUresult>(error)); }

// The bytes that were copied to the device, to the host, and within the device.
void fake_copied(long* bytes) {
  for (const auto* count : {&copied_in_bytes, &copied_out_bytes, &copied_within_bytes}) *bytes++ = count->load();
}

void fake_busy(double* each_s, double* any_s) { meter().read(each_s, any_s); }

// The numbers of a census, in the order of its members.
void fake_census(long* values) {
  for (const auto* count : census().in_order()) *values++ = *count;
}
}
