// Runs the CUDA launchers on cases read from standard input, for tests written in Python. Built twice: by a C++
// compiler against cuda_on_cpu/ (XLSTM_CUDA_ON_CPU), under sanitizers, and for a real GPU; and both once more with
// every call going through the TensorRT plugin (XLSTM_THROUGH_PLUGIN) or the ONNX Runtime operator
// (XLSTM_THROUGH_OPERATOR).
//
// A case is the struct below, its input tensors one after the other in the order of the launcher's struct, and
// `lengths` (int32) if has_lengths. The answer is an int64 cudaError_t and, if that is 0, the output tensors, then an
// int64 that is 1 if an input that is not updated in place was written to. Runs until the input ends.
#include <cuda_runtime.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <vector>

#include "cells/cuda/launch.h"

#if defined(XLSTM_CUDA_ON_CPU)
#include "cells/cuda/mlstm_launch.h"
#endif
#if defined(XLSTM_THROUGH_PLUGIN)
#include "plugin_launcher.h"
#endif
#if defined(XLSTM_THROUGH_OPERATOR)
#include "operator_launcher.h"
#endif

namespace {

struct Case {
  int64_t cell;  // 0: mLSTM, 1: sLSTM
  int64_t type, recurrent_type, memory_type;
  int64_t batch, sequence, heads, dim, dim_v;  // dim: DK or DH
  int64_t in_place;                            // bit k: the k-th state output is its input's buffer
  int64_t has_lengths;
  int64_t misalign;                 // 1: every buffer starts one element past a 16-byte boundary
  int64_t tile_vector, tile_lanes;  // mLSTM: 0 lets the launcher choose, the kernel too
  int64_t chunk_length, chunk_columns;
  int64_t no_workspace;  // sLSTM: pass a null workspace
  int64_t capture;       // capture the launch into a CUDA graph and replay it twice; simulator: launch twice
  // Simulator: the order of threads; file (an index into kKernelFiles) and line of a barrier to leave out; the device.
  int64_t schedule, broken_file, broken_barrier;
  int64_t multiprocessors, shared_limit, resident_blocks;  // 0: the simulator's
  int64_t no_clusters;
  int64_t choose;       // simulator, mLSTM: launch nothing, answer with the chosen chunk in place of a status
  float parameters[4];  // q_scale, k_scale, gate_soft_cap, eps; or forget_clamp
};

#if defined(XLSTM_CUDA_ON_CPU)
constexpr const char* kKernelFiles[] = {
    "mlstm_step.cuh", "mlstm_chunkwise.cuh", "mlstm_tensor.cuh",  "mlstm_sequence_normaliser.cuh",
    "slstm_step.cuh", "slstm_sequence.cuh",  "slstm_cluster.cuh", "slstm_batch.cuh"};

void set_up_simulator(const Case& c) {
  simulator::set_schedule(static_cast<uint64_t>(c.schedule));
  simulator::break_barrier(kKernelFiles[c.broken_file], static_cast<int>(c.broken_barrier));
  simulator::device = {};
  if (c.multiprocessors) simulator::device.multiprocessors = static_cast<int>(c.multiprocessors);
  if (c.shared_limit) {
    simulator::device.shared_limit = static_cast<size_t>(c.shared_limit);
    simulator::device.number = static_cast<int>(c.shared_limit / 4096);  // the limit of a device never changes
  }
  if (c.resident_blocks) simulator::device.resident_blocks = static_cast<int>(c.resident_blocks);
  simulator::device.clusters = !c.no_clusters;
}

// 1 + its length * 3 + its columns: a status that is not 0, in the range of the enumeration.
cudaError_t chosen_chunk(const xlstm::MlstmArgs& args) {
  xlstm::cuda::DeviceLimits limits;
  xlstm::cuda::query_limits(limits);
  const xlstm::cuda::MlstmChunk chunk = xlstm::cuda::choose_mlstm_chunk(args, limits);
  return static_cast<cudaError_t>(1 + chunk.length * 3 + chunk.columns);
}
#endif

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  std::fprintf(stderr, "cell_runner: %s: %s\n", what, cudaGetErrorString(status));
  std::exit(3);
}

bool read_exactly(void* to, size_t bytes) { return std::fread(to, 1, bytes, stdin) == bytes; }

// One tensor: `host` holds what was sent, `device` what the kernel sees.
struct Tensor {
  std::vector<char> host;
  void* allocation = nullptr;
  char* device = nullptr;
  bool updated = false, scratch = false;

  Tensor(size_t bytes, size_t offset) : host(bytes) {
    check(cudaMalloc(&allocation, bytes + offset), "cudaMalloc");
    device = static_cast<char*>(allocation) + offset;
  }
  ~Tensor() { cudaFree(allocation); }
  Tensor(const Tensor&) = delete;

  void upload() const { check(cudaMemcpy(device, host.data(), host.size(), cudaMemcpyHostToDevice), "upload"); }
  std::vector<char> download() const {
    std::vector<char> bytes(host.size());
    check(cudaMemcpy(bytes.data(), device, bytes.size(), cudaMemcpyDeviceToHost), "download");
    return bytes;
  }
};

class Runner {
 public:
  explicit Runner(const Case& c) : case_(c) {}

  void run() {
    case_.cell == 0 ? build_mlstm() : build_slstm();
    cudaError_t status = cudaSuccess;
    upload();
    if (case_.capture) {
      status = replay();
    } else {
      status = launch_(nullptr);
      if (status == cudaSuccess) check(cudaStreamSynchronize(nullptr), "kernel");
    }
    answer(status);
  }

 private:
  static size_t size_of(int64_t type) { return type == 0 ? 4 : 2; }
  size_t activation() const { return size_of(case_.type); }

  Tensor& make(int64_t elements, size_t size) {
    return tensors_.emplace_back(static_cast<size_t>(elements) * size, case_.misalign ? size : 0);
  }
  void* input(int64_t elements, size_t size) {
    Tensor& tensor = make(elements, size);
    if (!read_exactly(tensor.host.data(), tensor.host.size())) std::exit(4);
    return tensor.device;
  }
  // A state output: the buffer of its input, or a new one full of NaN.
  void* state_output(int index, const void* in, int64_t elements, size_t size = sizeof(float)) {
    if (case_.in_place >> index & 1) {
      for (Tensor& tensor : tensors_) {
        if (tensor.device == in) {
          tensor.updated = true;
          outputs_.push_back(&tensor);
        }
      }
      return const_cast<void*>(in);
    }
    return output(elements, size);
  }
  float* float_output(int index, const float* in, int64_t elements) {
    return static_cast<float*>(state_output(index, in, elements));
  }
  void* output(int64_t elements, size_t size) {
    Tensor& tensor = make(elements, size);
    std::memset(tensor.host.data(), 0xff, tensor.host.size());
    tensor.updated = true;
    outputs_.push_back(&tensor);
    return tensor.device;
  }
  const int32_t* lengths() {
    return case_.has_lengths ? static_cast<const int32_t*>(input(case_.batch, sizeof(int32_t))) : nullptr;
  }
  const float* state(int64_t elements) { return static_cast<const float*>(input(elements, sizeof(float))); }

  void build_mlstm() {
    const Case& c = case_;
    const int64_t tokens = c.batch * c.sequence * c.heads, heads = c.batch * c.heads;
    xlstm::MlstmArgs a{};
    a.batch = c.batch, a.sequence = c.sequence, a.heads = c.heads, a.dim_qk = c.dim, a.dim_v = c.dim_v;
    a.type = static_cast<xlstm::DataType>(c.type);
    a.memory_type = static_cast<xlstm::DataType>(c.memory_type);
    a.q = input(tokens * c.dim, activation());
    a.k = input(tokens * c.dim, activation());
    a.v = input(tokens * c.dim_v, activation());
    a.i = input(tokens, activation());
    a.f = input(tokens, activation());
    a.C_in = input(heads * c.dim * c.dim_v, size_of(c.memory_type));
    a.n_in = state(heads * c.dim);
    a.m_in = state(heads);
    a.lengths = lengths();
    a.h = output(tokens * c.dim_v, activation());
    a.C_out = state_output(0, a.C_in, heads * c.dim * c.dim_v, size_of(c.memory_type));
    a.n_out = float_output(1, a.n_in, heads * c.dim);
    a.m_out = float_output(2, a.m_in, heads);
    a.q_scale = c.parameters[0], a.k_scale = c.parameters[1];
    a.gate_soft_cap = c.parameters[2], a.eps = c.parameters[3];
#if defined(XLSTM_THROUGH_PLUGIN)
    launch_ = through_plugin(a);
#elif defined(XLSTM_THROUGH_OPERATOR)
    launch_ = through_operator(a);
#else
    launch_ = [a, &c](cudaStream_t stream) {
#if defined(XLSTM_CUDA_ON_CPU)
      if (c.choose) return chosen_chunk(a);
#endif
      const xlstm::cuda::MlstmTile tile{static_cast<int>(c.tile_vector), static_cast<int>(c.tile_lanes)};
      const xlstm::cuda::MlstmChunk chunk{static_cast<int>(c.chunk_length), static_cast<int>(c.chunk_columns)};
      if (tile.vector) return xlstm::cuda::launch_mlstm_tiled(a, tile, stream);
      if (chunk.length) return xlstm::cuda::launch_mlstm_chunkwise(a, chunk, stream);
      return xlstm::cuda::launch_mlstm(a, stream);
    };
#endif
  }

  void build_slstm() {
    const Case& c = case_;
    const int64_t elements = c.batch * c.heads * c.dim;
    xlstm::SlstmArgs a{};
    a.batch = c.batch, a.sequence = c.sequence, a.heads = c.heads, a.dim = c.dim;
    a.type = static_cast<xlstm::DataType>(c.type);
    a.recurrent_type = static_cast<xlstm::DataType>(c.recurrent_type);
    a.x = input(elements * c.sequence * 4, activation());
    a.R = input(c.heads * 4 * c.dim * c.dim, size_of(c.recurrent_type));
    a.b = state(4 * c.heads * c.dim);
    a.y_in = state(elements);
    a.c_in = state(elements);
    a.n_in = state(elements);
    a.m_in = state(elements);
    a.lengths = lengths();
    a.hidden = output(elements * c.sequence, activation());
    a.y_out = float_output(0, a.y_in, elements);
    a.c_out = float_output(1, a.c_in, elements);
    a.n_out = float_output(2, a.n_in, elements);
    a.m_out = float_output(3, a.m_in, elements);
    a.forget_clamp = c.parameters[0];
    void* workspace = nullptr;
    if (!c.no_workspace) {
      const size_t bytes = xlstm::cuda::slstm_workspace_size(c.batch, c.heads, c.dim);
      Tensor& scratch = tensors_.emplace_back(bytes, 0);  // always aligned
      std::memset(scratch.host.data(), 0xff, scratch.host.size());
      scratch.updated = scratch.scratch = true;
      workspace = scratch.device;
    }
#if defined(XLSTM_THROUGH_PLUGIN)
    launch_ = through_plugin(a, workspace);
#elif defined(XLSTM_THROUGH_OPERATOR)
    launch_ = through_operator(a);
#else
    launch_ = [a, workspace](cudaStream_t stream) { return xlstm::cuda::launch_slstm(a, workspace, stream); };
#endif
  }

  // `again`: scratch memory keeps what the first launch left in it.
  void upload(bool again = false) {
    for (const Tensor& tensor : tensors_) {
      if (!again || !tensor.scratch) tensor.upload();
    }
  }

  cudaError_t replay() {
#if defined(XLSTM_CUDA_ON_CPU)
    const cudaError_t status = launch_(nullptr);
    upload(true);
    return status == cudaSuccess ? launch_(nullptr) : status;
#else
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t executable;
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), "begin capture");
    const cudaError_t status = launch_(stream);
    check(cudaStreamEndCapture(stream, &graph), "end capture");
    if (status != cudaSuccess) return status;
    check(cudaGraphInstantiate(&executable, graph, 0), "instantiate");
    for (int time = 0; time < 2; ++time) {
      upload(time > 0);
      check(cudaDeviceSynchronize(), "upload");
      check(cudaGraphLaunch(executable, stream), "graph launch");
      check(cudaStreamSynchronize(stream), "graph");
    }
    cudaGraphExecDestroy(executable);
    cudaGraphDestroy(graph);
    cudaStreamDestroy(stream);
    return cudaSuccess;
#endif
  }

  void answer(cudaError_t status) const {
    const int64_t code = status;
    std::fwrite(&code, sizeof code, 1, stdout);
    if (status == cudaSuccess) {
      int64_t input_written = 0;
      for (const Tensor* tensor : outputs_) {
        const std::vector<char> bytes = tensor->download();
        std::fwrite(bytes.data(), 1, bytes.size(), stdout);
      }
      for (const Tensor& tensor : tensors_) input_written |= !tensor.updated && tensor.download() != tensor.host;
      std::fwrite(&input_written, sizeof input_written, 1, stdout);
    }
    std::fflush(stdout);
  }

  const Case& case_;
  std::deque<Tensor> tensors_;
  std::vector<const Tensor*> outputs_;
  std::function<cudaError_t(cudaStream_t)> launch_;
};

}  // namespace

int main() {
  Case c;
  while (read_exactly(&c, sizeof c)) {
#if defined(XLSTM_CUDA_ON_CPU)
    set_up_simulator(c);
#endif
    Runner(c).run();
  }
  return 0;
}
