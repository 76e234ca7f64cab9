#include "runtime/cuda_driver.h"

#include <algorithm>
#include <cstring>

#include "runtime/shared_library.h"
#include "xlstm/xlstm.hpp"

namespace xlstm::internal {
namespace {

constexpr unsigned kNonBlocking = 1;  // CU_STREAM_NON_BLOCKING

SharedLibrary open_driver() {
  return SharedLibrary::open("the CUDA driver", {}, nullptr, {"libcuda.so.1"},
                             "Install NVIDIA's driver, or run on the CPU (Device::cpu).");
}

}  // namespace

int cuda_device_count() {
  try {
    const SharedLibrary driver = open_driver();
    int count = 0;
    if (driver.function<int(unsigned)>("cuInit")(0) != 0) return 0;
    return driver.function<int(int*)>("cuDeviceGetCount")(&count) == 0 ? count : 0;
  } catch (const Error&) {
    return 0;
  }
}

CudaDevice::CudaDevice(int index) {
  const SharedLibrary driver = open_driver();
#define XLSTM_FIND(name, ...) name = driver.function<int(__VA_ARGS__)>(#name);
  XLSTM_CUDA_DRIVER(XLSTM_FIND)
#undef XLSTM_FIND
  int count = 0, device = 0;
  if (cuInit(0) != 0 || cuDeviceGetCount(&count) != 0 || count == 0) {
    throw Error(ErrorCode::unavailable, "The CUDA driver sees no GPU. Run on the CPU (Device::cpu).");
  }
  if (index < 0 || index >= count) {
    throw Error(ErrorCode::unavailable,
                "There is no GPU " + std::to_string(index) + "; the driver sees " + std::to_string(count) + ".");
  }
  XLSTM_CUDA(*this, cuDeviceGet, &device, index);
  // Never released: the primary context is shared with the libraries that use it, and lives as long as the process.
  XLSTM_CUDA(*this, cuDevicePrimaryCtxRetain, &context_, device);
  make_current();
}

void CudaDevice::make_current() const { XLSTM_CUDA(*this, cuCtxSetCurrent, context_); }

void CudaDevice::check(int result, const char* call) const {
  if (result == 0) return;
  const char* text = nullptr;
  if (cuGetErrorString(result, &text) != 0 || !text) text = "unknown error";
  throw Error(ErrorCode::runtime, std::string(call) + " failed: " + text + " (" + std::to_string(result) + ").");
}

PinnedBuffer::PinnedBuffer(const CudaDevice& device, std::size_t bytes) : device_(device), bytes_(bytes) {
  XLSTM_CUDA(device, cuMemHostAlloc, &data_, std::max<std::size_t>(bytes, 1), 0u);
  std::memset(data_, 0, bytes);
}

PinnedBuffer::~PinnedBuffer() { device_.cuMemFreeHost(data_); }

CudaStream::CudaStream(const CudaDevice& device) : device_(device) {
  XLSTM_CUDA(device, cuStreamCreate, &stream_, kNonBlocking);
}

CudaStream::~CudaStream() { device_.cuStreamDestroy_v2(stream_); }

void CudaStream::synchronize() const { XLSTM_CUDA(device_, cuStreamSynchronize, stream_); }

}  // namespace xlstm::internal
