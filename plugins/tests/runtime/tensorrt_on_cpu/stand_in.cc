// The CUDA driver and TensorRT in one library, on the CPU: device memory is the host's, and work runs when it is
// queued, or, while a stream is captured, when the graph is launched. It ends the process where it is used wrongly.
//
// An engine's bytes are the names of its profiles (`decode`, `prefill`, `window`) and of what else it has (`lengths`,
// `all_positions`, `network`: an input gain (batch, 2) and an output energy (batch), the logits' and the gain's first
// values one by the other after the last position; `stateless`: the states are zeros, and neither fed nor given). Its
// model has a state s (batch, 3) that starts at zero. Each token t makes it s/2 + t, and the logits (1, 2, 3, 4, 5)
// times its first value; those of a row without tokens, and of padding, are NaN. A pass over more than one position
// fails where it meets the token 4.
#include <NvInferRuntime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "runtime/cuda_driver.h"

#define REQUIRE(condition)                                                                             \
  do {                                                                                                 \
    if (!(condition)) {                                                                                \
      std::fprintf(stderr, "%s:%d: used wrongly: %s\n", __FILE__, __LINE__, #condition), std::abort(); \
    }                                                                                                  \
  } while (false)

using namespace nvinfer1;
using Address = unsigned long long;

struct CUgraph_st {
  std::vector<std::function<void()>> work;
};
struct CUgraphExec_st : CUgraph_st {};

namespace {

CUgraph_st* captured = nullptr;

void submit(const std::function<void()>& work) {
  if (captured)
    captured->work.push_back(work);
  else
    work();
}

int copy(void* to, const void* from, std::size_t bytes) {
  submit([=] { std::memcpy(to, from, bytes); });
  return 0;
}

// NOLINTNEXTLINE(performance-no-int-to-ptr): the driver's addresses are numbers
void* pointer(Address address) { return reinterpret_cast<void*>(static_cast<std::uintptr_t>(address)); }

constexpr std::int64_t kVocabulary = 5, kWidth = 3;

struct Engine : ICudaEngine {
  std::vector<std::string> profiles;
  bool lengths = false, all_positions = false, network = false, stateless = false;

  TensorIOMode getTensorIOMode(const char* name) const noexcept override {
    const std::string tensor = name;
    if (tensor == "tokens" || (tensor == "s" && !stateless) || (tensor == "lengths" && lengths))
      return TensorIOMode::kINPUT;
    if (tensor == "gain" && network) return TensorIOMode::kINPUT;
    const bool output = tensor == "logits" || (tensor == "s.next" && !stateless) || (tensor == "energy" && network);
    return output ? TensorIOMode::kOUTPUT : TensorIOMode::kNONE;
  }
  DataType getTensorDataType(const char* name) const noexcept override {
    const std::string tensor = name;
    if (tensor == "lengths") return DataType::kINT32;
    return tensor == "tokens" ? DataType::kINT64 : DataType::kFLOAT;
  }
  std::int32_t getNbOptimizationProfiles() const noexcept override { return static_cast<int>(profiles.size()); }
  // Steps for a batch of up to 4, prompts for one of up to 3 and 16 positions.
  Dims getProfileShape(const char* name, std::int32_t profile, OptProfileSelector bound) const noexcept override {
    const bool prefill = profiles.at(static_cast<std::size_t>(profile)) != "decode";
    const bool most = bound == OptProfileSelector::kMAX;
    const std::int64_t batch = !most ? 1 : prefill ? 3 : 4, positions = most && prefill ? 16 : 1;
    const std::string tensor = name;
    if (tensor == "tokens") return {2, {batch, positions}};
    if (tensor == "lengths") return {1, {batch}};
    if (tensor == "gain") return {2, {batch, 2}};
    return {2, {batch, kWidth}};
  }
  IExecutionContext* createExecutionContext(ExecutionContextAllocationStrategy) noexcept override;
};

struct Context : IExecutionContext {
  const Engine& engine;
  std::int32_t profile = 0;
  std::map<std::string, Dims> shapes;
  std::map<std::string, void*> addresses;

  explicit Context(const Engine& made_by) : engine(made_by) {}

  bool setOptimizationProfileAsync(std::int32_t index, CUstream_st*) noexcept override {
    REQUIRE(shapes.empty() && !captured);
    profile = index;
    return index >= 0 && index < engine.getNbOptimizationProfiles();
  }
  bool setInputShape(const char* name, const Dims& dims) noexcept override {
    REQUIRE(engine.getTensorIOMode(name) == TensorIOMode::kINPUT && !captured);
    const Dims least = engine.getProfileShape(name, profile, OptProfileSelector::kMIN);
    const Dims most = engine.getProfileShape(name, profile, OptProfileSelector::kMAX);
    REQUIRE(dims.nbDims == least.nbDims);
    for (int i = 0; i < dims.nbDims; ++i)
      if (dims.d[i] < least.d[i] || dims.d[i] > most.d[i]) return false;
    shapes[name] = dims;
    return true;
  }
  bool setTensorAddress(const char* name, void* address) noexcept override {
    addresses[name] = address;
    return engine.getTensorIOMode(name) != TensorIOMode::kNONE;
  }
  bool enqueueV3(CUstream_st*) noexcept override {
    const std::int64_t batch = shapes.at("tokens").d[0], positions = shapes.at("tokens").d[1];
    REQUIRE(engine.stateless || shapes.at("s").d[0] == batch);
    REQUIRE(!engine.lengths || shapes.at("lengths").d[0] == batch);
    REQUIRE(!engine.network || (shapes.at("gain").d[0] == batch && shapes.at("gain").d[1] == 2));
    const auto* tokens = static_cast<const std::int64_t*>(addresses.at("tokens"));
    const auto* lengths = engine.lengths ? static_cast<const std::int32_t*>(addresses.at("lengths")) : nullptr;
    const auto* before = engine.stateless ? nullptr : static_cast<const float*>(addresses.at("s"));
    auto* after = engine.stateless ? nullptr : static_cast<float*>(addresses.at("s.next"));
    const auto* gain = engine.network ? static_cast<const float*>(addresses.at("gain")) : nullptr;
    auto* energy = engine.network ? static_cast<float*>(addresses.at("energy")) : nullptr;
    auto* logits = static_cast<float*>(addresses.at("logits"));
    REQUIRE(engine.stateless || before != after);
    for (std::int64_t i = 0; positions > 1 && i < batch * positions; ++i)
      if (tokens[i] == 4) return false;
    submit([=, all = engine.all_positions] {
      std::fill_n(logits, batch * (all ? positions : 1) * kVocabulary, std::numeric_limits<float>::quiet_NaN());
      std::vector<float> zeros(static_cast<std::size_t>(batch * kWidth));
      float* const states = after ? after : zeros.data();
      if (before) std::memcpy(states, before, sizeof(float) * zeros.size());
      for (std::int64_t row = 0; row < batch; ++row) {
        float* const state = states + row * kWidth;
        const std::int64_t length = lengths ? lengths[row] : positions;
        REQUIRE(length >= 0 && length <= positions);
        for (std::int64_t t = 0; t < length; ++t) {
          for (int i = 0; i < kWidth; ++i) state[i] = state[i] / 2 + static_cast<float>(tokens[row * positions + t]);
          float* const out = logits + (all ? row * positions + t : row) * kVocabulary;
          for (int i = 0; i < kVocabulary; ++i) out[i] = state[0] * static_cast<float>(i + 1);
        }
        if (energy) energy[row] = state[0] * gain[2 * row];
      }
    });
    return true;
  }
};

IExecutionContext* Engine::createExecutionContext(ExecutionContextAllocationStrategy) noexcept {
  return new Context(*this);
}

struct Runtime : IRuntime {
  void setEngineHostCodeAllowed(bool) noexcept override {}
  IPluginRegistry& getPluginRegistry() const noexcept override { std::abort(); }  // the engine needs no plugins
  ICudaEngine* deserializeCudaEngine(const void* bytes, std::size_t size) noexcept override {
    auto* engine = new Engine;
    std::istringstream words(std::string(static_cast<const char*>(bytes), size));
    for (std::string word; words >> word;) {
      if (word == "lengths")
        engine->lengths = true;
      else if (word == "all_positions")
        engine->all_positions = true;
      else if (word == "network")
        engine->network = true;
      else if (word == "stateless")
        engine->stateless = true;
      else
        engine->profiles.push_back(word);
    }
    return engine;
  }
};

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT void* createInferRuntime_INTERNAL(void*, std::int32_t) { return new Runtime; }
EXPORT std::int32_t getInferLibVersion() { return NV_TENSORRT_VERSION; }

EXPORT int cuInit(unsigned) { return 0; }
EXPORT int cuGetErrorString(int, const char** text) { return *text = "no text", 0; }
EXPORT int cuDeviceGetCount(int* count) { return *count = 1, 0; }
EXPORT int cuDeviceGet(int* device, int) { return *device = 0, 0; }
EXPORT int cuDevicePrimaryCtxRetain(CUctx_st**, int) { return 0; }
EXPORT int cuCtxSetCurrent(CUctx_st*) { return 0; }
EXPORT int cuMemAlloc_v2(Address* address, std::size_t bytes) {
  void* const memory = std::malloc(bytes);
  std::memset(memory, 0xee, bytes);  // as on a device, not zeros
  return *address = reinterpret_cast<std::uintptr_t>(memory), 0;
}
EXPORT int cuMemFree_v2(Address address) { return std::free(pointer(address)), 0; }
EXPORT int cuMemHostAlloc(void** memory, std::size_t bytes, unsigned) { return *memory = std::malloc(bytes), 0; }
EXPORT int cuMemFreeHost(void* memory) { return std::free(memory), 0; }
EXPORT int cuMemcpyHtoDAsync_v2(Address to, const void* from, std::size_t bytes, CUstream_st*) {
  return copy(pointer(to), from, bytes);
}
EXPORT int cuMemcpyDtoHAsync_v2(void* to, Address from, std::size_t bytes, CUstream_st*) {
  return copy(to, pointer(from), bytes);
}
EXPORT int cuMemcpyDtoDAsync_v2(Address to, Address from, std::size_t bytes, CUstream_st*) {
  return copy(pointer(to), pointer(from), bytes);
}
EXPORT int cuMemsetD8Async(Address to, unsigned char value, std::size_t bytes, CUstream_st*) {
  return submit([=] { std::memset(pointer(to), value, bytes); }), 0;
}
EXPORT int cuStreamCreate(CUstream_st** stream, unsigned) { return *stream = nullptr, 0; }
EXPORT int cuStreamDestroy_v2(CUstream_st*) { return 0; }
EXPORT int cuStreamSynchronize(CUstream_st*) {
  REQUIRE(!captured);
  return 0;
}
EXPORT int cuStreamBeginCapture_v2(CUstream_st*, int) { return captured = new CUgraph_st, 0; }
EXPORT int cuStreamEndCapture(CUstream_st*, CUgraph_st** graph) {
  *graph = captured;
  captured = nullptr;
  return 0;
}
EXPORT int cuGraphInstantiateWithFlags(CUgraphExec_st** graph, CUgraph_st* from, Address) {
  return *graph = new CUgraphExec_st{*from}, 0;
}
EXPORT int cuGraphDestroy(CUgraph_st* graph) { return delete graph, 0; }
EXPORT int cuGraphExecDestroy(CUgraphExec_st* graph) { return delete graph, 0; }
EXPORT int cuGraphLaunch(CUgraphExec_st* graph, CUstream_st*) {
  for (const auto& work : graph->work) work();
  return 0;
}
