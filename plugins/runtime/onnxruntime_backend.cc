// ONNX Runtime, on the CPU or on CUDA. Its library is opened at run time, through its C interface.
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <limits>
#include <mutex>
#include <optional>

#include "backend.h"
#include "chunk_buffers.h"
#include "cuda_driver.h"
#include "cuda_sampler.h"
#include "shared_library.h"
#include "states.h"

namespace xlstm::internal {
namespace {

// Runs `body`; what ONNX Runtime throws becomes an Error that begins with `doing`.
template <class Body>
auto translated(ErrorCode code, const std::string& doing, Body&& body) {
  try {
    return body();
  } catch (const Ort::Exception& error) {
    throw Error(code, doing + ": " + error.what());
  }
}

// The library and its environment: one for a process, which ends with it (what it registers may not vanish before).
Ort::Env& environment(const Options& options) {
  static std::mutex mutex;
  static std::string* loaded_from = nullptr;
  static Ort::Env* env = nullptr;
  const std::lock_guard lock(mutex);
  std::error_code ignored;
  if (env) {
    const auto& wanted = options.onnxruntime_library;
    if (!wanted.empty() && !std::filesystem::equivalent(wanted, *loaded_from, ignored))
      throw Error(ErrorCode::unavailable, "ONNX Runtime is loaded from " + *loaded_from +
                                              " already; a process can use one, not " + wanted.string() + " as well.");
    return *env;
  }
  const SharedLibrary library = SharedLibrary::open(
      "ONNX Runtime", options.onnxruntime_library, "XLSTM_ONNXRUNTIME", {"libonnxruntime.so.1", "libonnxruntime.so"},
      "Name libonnxruntime.so in Options::onnxruntime_library or in the environment variable XLSTM_ONNXRUNTIME; the "
      "pip package onnxruntime-gpu and ONNX Runtime's releases hold one.");
  const OrtApiBase* base = library.function<const OrtApiBase*()>("OrtGetApiBase")();
  const OrtApi* api = base->GetApi(ORT_API_VERSION);
  if (!api)
    throw Error(ErrorCode::unavailable, library.path() + " is ONNX Runtime " + base->GetVersionString() + "; 1." +
                                            std::to_string(ORT_API_VERSION) + " or newer is needed.");
  Ort::InitApi(api);
  translated(ErrorCode::unavailable, "ONNX Runtime cannot start",
             [&] { env = new Ort::Env(ORT_LOGGING_LEVEL_ERROR, "xlstm"); });
  loaded_from = new std::string(library.path());
  return *env;
}

bool has_cuda_provider() {
  for (const std::string& name : Ort::GetAvailableProviders())
    if (name == "CUDAExecutionProvider") return true;
  return false;
}

ONNXTensorElementDataType element_type(const std::string& dtype) {
  if (dtype == "int32") return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
  return dtype == "int64" ? ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
}

// What the streams of one model on CUDA share. ONNX Runtime allows one Run at a time on a session with CUDA graphs.
struct Cuda {
  explicit Cuda(int index) : device(index), stream(device) {}
  CudaDevice device;
  CudaStream stream;
  std::mutex mutex;
  std::atomic<int> next_graph{1};
};

class OnnxRuntimeStream : public Stream {
 public:
  OnnxRuntimeStream(Ort::Session& session, const Manifest& manifest, int batch, Cuda* cuda, int device_id, bool graph)
      : session_(session),
        manifest_(manifest),
        batch_(batch),
        cuda_(cuda),
        lock_(guard()),
        memory_(cuda ? Ort::MemoryInfo("Cuda", OrtDeviceAllocator, device_id, OrtMemTypeDefault)
                     : Ort::MemoryInfo("Cpu", OrtDeviceAllocator, 0, OrtMemTypeDefault)),
        states_(manifest, batch, cuda ? &cuda->device : nullptr, cuda ? &cuda->stream : nullptr),
        input_(cuda, rows() * manifest.input.row_bytes()),
        output_(cuda, rows() * manifest.output.row_bytes()),
        ones_(cuda, rows() * sizeof(std::int32_t)),
        chunk_(manifest, batch, cuda ? &cuda->device : nullptr, cuda ? &cuda->stream : nullptr) {
    std::fill_n(static_cast<std::int32_t*>(ones_.host()), batch, 1);
    if (cuda) {
      XLSTM_CUDA(cuda->device, cuMemcpyHtoDAsync_v2, ones_.address(), ones_.host(), ones_.bytes(), cuda->stream);
      prefill_options_ = run_options("-1");  // never captured
    }
    for (int turn = 0; turn < 2; ++turn) {
      bindings_[turn] = binding(turn, input_.device(), ones_.device(), output_.device(), 1);
      if (cuda) options_[turn] = run_options(graph ? std::to_string(cuda->next_graph++) : "-1");
    }
    lock_ = {};
  }

  ~OnnxRuntimeStream() override { lock_ = guard(); }

  void* input() override { return input_.host(); }

  const float* step() override {
    const auto lock = guard();
    run_step();
    if (cuda_) {
      XLSTM_CUDA(cuda_->device, cuMemcpyDtoHAsync_v2, output_.host(), output_.address(), output_.bytes(),
                 cuda_->stream);
      cuda_->stream.synchronize();
    }
    states_.advance();
    return static_cast<const float*>(output_.host());
  }

  // Bindings are made anew for each pass: a pass costs far more.
  void prefill(const Chunk& chunk) override {
    const auto lock = guard();
    chunk_.load(chunk);
    const std::string doing = "ONNX Runtime failed in a pass over " + std::to_string(chunk.positions) + " positions";
    translated(ErrorCode::runtime, doing, [&] {
      session_.Run(prefill_options_,
                   binding(states_.current(), chunk_.input(), chunk_.lengths(), chunk_.output(), chunk.positions));
    });
    chunk_.fetch(chunk);
    states_.advance();
  }

  bool can_sample() const override { return cuda_ && CudaSampler::available(); }

  void step_and_sample(const Sampling& sampling, const double* uniforms, std::int64_t* tokens) override {
    const auto lock = guard();
    if (!sampler_) sampler_.emplace(cuda_->device, cuda_->stream, batch_, manifest_.vocab_size);
    run_step();
    sampler_->draw(output_.gpu(), sampling, uniforms, tokens);
    states_.advance();
  }

  void reset(int row) override {
    const auto lock = guard();
    states_.reset(row);
  }

  void read_states(float* host) const override {
    const auto lock = guard();
    states_.read(host);
  }

  void write_states(const float* host) override {
    const auto lock = guard();
    states_.write(host);
  }

  void copy_states(const Stream& from) override {
    const auto lock = guard();
    states_.copy(static_cast<const OnnxRuntimeStream&>(from).states_);
  }

 private:
  // A buffer of the session, with its host side: on CUDA page-locked memory, on the CPU the buffer itself.
  class Port {
   public:
    Port(const Cuda* cuda, std::size_t bytes) : bytes_(bytes) {
      if (cuda) {
        gpu_.emplace(cuda->device, bytes);
        pinned_.emplace(cuda->device, bytes);
      } else {
        memory_.emplace(bytes);
      }
    }
    std::size_t bytes() const { return bytes_; }
    void* host() const { return pinned_ ? pinned_->data() : memory_->data(); }
    void* device() const { return gpu_ ? gpu_->pointer() : memory_->data(); }
    const DeviceBuffer& gpu() const { return *gpu_; }
    unsigned long long address() const { return gpu_->address(); }

   private:
    std::size_t bytes_;
    std::optional<HostBuffer> memory_;
    std::optional<DeviceBuffer> gpu_;
    std::optional<PinnedBuffer> pinned_;
  };

  std::size_t rows() const { return static_cast<std::size_t>(batch_); }

  // A pass over `positions` of every row, from state set `turn` to the other.
  Ort::IoBinding binding(int turn, void* input, void* lengths, void* output, std::size_t positions) const {
    const auto value = [&](void* data, std::size_t bytes, const std::vector<std::int64_t>& shape,
                           const std::string& dtype) {
      return Ort::Value::CreateTensor(memory_, data, bytes, shape.data(), shape.size(), element_type(dtype));
    };
    const auto& in = manifest_.input;
    const auto& out = manifest_.output;
    Ort::IoBinding binding(session_);
    binding.BindInput(in.name.c_str(),
                      value(input, chunk_.input_bytes(positions), in.sized(batch_, positions), in.dtype));
    binding.BindOutput(out.name.c_str(),
                       value(output, chunk_.output_bytes(positions), out.sized(batch_, positions), out.dtype));
    if (!manifest_.lengths.empty())
      binding.BindInput(manifest_.lengths.c_str(), value(lengths, chunk_.lengths_bytes(), {batch_}, "int32"));
    for (std::size_t i = 0; i < states_.size(); ++i) {
      const StateTensor& state = manifest_.states[i];
      const std::size_t bytes = states_.tensor_bytes(i);
      const auto shape = state.sized(batch_);
      binding.BindInput(state.input.c_str(), value(states_.tensor(turn, i), bytes, shape, state.dtype));
      binding.BindOutput(state.output.c_str(), value(states_.tensor(1 - turn, i), bytes, shape, state.dtype));
    }
    return binding;
  }

  // `graph`: the CUDA graph that the run is captured into and replayed from; -1: none.
  static Ort::RunOptions run_options(const std::string& graph) {
    Ort::RunOptions options;
    options.AddConfigEntry("disable_synchronize_execution_providers", "1");  // the stream is waited for by its user
    options.AddConfigEntry("gpu_graph_id", graph.c_str());
    return options;
  }

  // One step, its outputs left in the output buffer; the caller advances the states when all has gone well.
  void run_step() {
    const int turn = states_.current();
    if (cuda_)
      XLSTM_CUDA(cuda_->device, cuMemcpyHtoDAsync_v2, input_.address(), input_.host(), input_.bytes(), cuda_->stream);
    try {
      session_.Run(options_[turn], bindings_[turn]);
    } catch (const Ort::Exception& error) {
      throw Error(ErrorCode::runtime, std::string("ONNX Runtime failed in a step: ") + error.what());
    }
  }

  // On CUDA: one session of the model at a time, with its device current in this thread.
  std::unique_lock<std::mutex> guard() const {
    if (!cuda_) return {};
    std::unique_lock lock(cuda_->mutex);
    cuda_->device.make_current();
    return lock;
  }

  Ort::Session& session_;
  const Manifest& manifest_;
  int batch_;
  Cuda* cuda_;
  std::unique_lock<std::mutex> lock_;  // held while it is made and while it is destroyed
  Ort::MemoryInfo memory_;
  StateBuffers states_;
  Port input_, output_;
  Port ones_;  // the lengths of a step
  ChunkBuffers chunk_;
  Ort::IoBinding bindings_[2] = {Ort::IoBinding(nullptr), Ort::IoBinding(nullptr)};
  Ort::RunOptions options_[2] = {Ort::RunOptions(nullptr), Ort::RunOptions(nullptr)};
  Ort::RunOptions prefill_options_{nullptr};
  std::optional<CudaSampler> sampler_;
};

class OnnxRuntimeEngine : public Engine {
 public:
  OnnxRuntimeEngine(const std::filesystem::path& bundle, const Manifest& manifest, const Options& options)
      : env_(environment(options)), manifest_(manifest), device_id_(options.device_id) {
    const bool possible = options.device != Device::cpu && cuda_device_count() > 0;
    if (options.device == Device::cuda || (possible && has_cuda_provider())) {
      if (!has_cuda_provider())
        throw Error(ErrorCode::unavailable,
                    "this ONNX Runtime has no CUDA provider. Use that of the pip package "
                    "onnxruntime-gpu, or run on the CPU (Device::cpu).");
      cuda_ = std::make_unique<Cuda>(options.device_id);
    } else if (manifest.dtype == "bfloat16") {
      throw Error(ErrorCode::unavailable,
                  bundle.string() +
                      " is in bfloat16, which ONNX Runtime cannot compute on the CPU. "
                      "Export it with --dtype float32 or float16, or run it on CUDA or TensorRT.");
    }
    const std::string model = (bundle / kModelFile).string();
    graph_ = cuda_ && options.cuda_graph;
    try {
      session_ = Ort::Session(env_, model.c_str(), session_options(options));
    } catch (const Ort::Exception& error) {
      if (!graph_) throw Error(ErrorCode::bundle, "ONNX Runtime cannot load " + model + ": " + error.what());
      // A graph that is not wholly on the GPU cannot be captured: run it node by node. ModelInfo::cuda_graph tells.
      graph_ = false;
      session_ = translated(ErrorCode::bundle, "ONNX Runtime cannot load " + model,
                            [&] { return Ort::Session(env_, model.c_str(), session_options(options)); });
    }
  }

  std::unique_ptr<Stream> stream(int batch) const override {
    return translated(ErrorCode::runtime, "ONNX Runtime cannot bind the bundle's inputs and outputs", [&] {
      return std::make_unique<OnnxRuntimeStream>(session_, manifest_, batch, cuda_.get(), device_id_, graph_);
    });
  }

  std::string device() const override { return cuda_ ? "cuda:" + std::to_string(device_id_) : "cpu"; }
  bool cuda_graph() const override { return graph_; }
  int max_chunk() const override { return manifest_.lengths.empty() ? 0 : std::numeric_limits<int>::max(); }

 private:
  Ort::SessionOptions session_options(const Options& options) const {
    Ort::SessionOptions result;
    result.SetLogSeverityLevel(ORT_LOGGING_LEVEL_ERROR);
    if (options.threads) result.SetIntraOpNumThreads(options.threads);
    if (const auto& library = options.custom_op_library; !library.empty()) {
      std::error_code failure;
      const auto path = std::filesystem::canonical(library, failure);
      if (failure)
        throw Error(ErrorCode::unavailable,
                    "no custom-op library at " + library.string() +
                        ". Build libxlstm_onnxruntime.so, "
                        "or leave Options::custom_op_library empty to run the cells' definitions.");
      translated(ErrorCode::unavailable, "ONNX Runtime cannot use the custom-op library",
                 [&] { result.RegisterCustomOpsLibrary(path.c_str()); });
    }
    if (cuda_) {
      const OrtApi& api = Ort::GetApi();
      OrtCUDAProviderOptionsV2* cuda = nullptr;
      Ort::ThrowOnError(api.CreateCUDAProviderOptions(&cuda));
      const std::unique_ptr<OrtCUDAProviderOptionsV2, void (*)(OrtCUDAProviderOptionsV2*)> owner(
          cuda, api.ReleaseCUDAProviderOptions);
      const std::string id = std::to_string(device_id_);
      const char* const keys[] = {"device_id", "use_tf32", "enable_cuda_graph"};  // float32 means float32
      const char* const values[] = {id.c_str(), "0", graph_ ? "1" : "0"};
      Ort::ThrowOnError(api.UpdateCUDAProviderOptions(cuda, keys, values, std::size(keys)));
      Ort::ThrowOnError(api.UpdateCUDAProviderOptionsWithValue(cuda, "user_compute_stream",
                                                               static_cast<CUstream_st*>(cuda_->stream)));
      result.AppendExecutionProvider_CUDA_V2(*cuda);
    }
    return result;
  }

  Ort::Env& env_;  // first: without the library, not even empty handles can be destroyed
  Manifest manifest_;
  int device_id_;
  bool graph_ = false;
  std::unique_ptr<Cuda> cuda_;
  mutable Ort::Session session_{nullptr};  // Run is safe from several threads
};

}  // namespace

std::unique_ptr<Engine> load_onnxruntime(const std::filesystem::path& bundle, const Manifest& manifest,
                                         const Options& options) {
  return std::make_unique<OnnxRuntimeEngine>(bundle, manifest, options);
}

}  // namespace xlstm::internal
