// Model and Session: what is the same on every back end.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>
#include <mutex>

#include "runtime/backend.h"
#include "runtime/manifest.h"
#include "runtime/named_inputs.h"
#include "runtime/state_file.h"
#include "xlstm/xlstm.hpp"

namespace xlstm {

using internal::Manifest;

struct Model::Impl {
  std::filesystem::path bundle;
  Manifest manifest;
  ModelInfo info;
  std::unique_ptr<internal::LoadedBundle> loaded;
  mutable std::once_flag hashed;
  mutable std::string hash;

  const std::string& model_hash() const {
    std::call_once(hashed, [this] { hash = internal::model_hash(bundle, manifest); });
    return hash;
  }
};

struct Session::Impl {
  Impl(std::shared_ptr<const Model::Impl> of, int size)
      : model(std::move(of)),
        batch(model->loaded->batch(size)),
        named(model->manifest, size),
        uniforms(static_cast<std::size_t>(size)),
        drawn(static_cast<std::size_t>(size)) {}

  std::shared_ptr<const Model::Impl> model;
  std::unique_ptr<internal::Batch> batch;
  internal::NamedInputs named;
  std::vector<double> uniforms;
  std::vector<std::int64_t> drawn;
  // Of a prefill, allocated by the first: a chunk, where its outputs go, and the outputs.
  std::vector<std::byte> chunk;
  std::vector<std::int32_t> lengths;
  std::vector<float*> destinations;
  std::vector<float> outputs;

  const Manifest& manifest() const { return model->manifest; }
  std::size_t rows() const { return static_cast<std::size_t>(batch->size()); }

  // `input`: a token or a vector for each row.
  Logits step(const void* input) {
    return {batch->run({1, &input, nullptr})[0].data, rows(), model->info.output_width};
  }

  // What a row is fed: tokens or vectors, one after another.
  struct Prompt {
    const std::byte* data;
    std::size_t length;
  };

  Logits prefill(const std::vector<Prompt>& prompts) {
    std::size_t longest = 0, shortest = prompts[0].length;
    for (const Prompt& prompt : prompts) {
      longest = std::max(longest, prompt.length);
      shortest = std::min(shortest, prompt.length);
    }
    if (model->info.chunk || longest == 0) return prefill_in_chunks(prompts, longest);
    if (shortest != longest) {
      throw Error(
          ErrorCode::argument,
          "prefill got prompts of " + std::to_string(shortest) + " to " + std::to_string(longest) +
              " tokens, but this model goes step by step, with all rows at once. Give prompts of one length, or "
              "export the bundle with --mode both (and then build the engine again, if you use one).");
    }
    return prefill_in_steps(prompts, longest);
  }

  Logits prefill_in_steps(const std::vector<Prompt>& prompts, std::size_t length) {
    const std::size_t bytes = manifest().input().row_bytes();
    chunk.resize(rows() * bytes);
    Logits logits;
    for (std::size_t position = 0; position < length; ++position) {
      for (std::size_t row = 0; row < rows(); ++row) {
        std::memcpy(chunk.data() + row * bytes, prompts[row].data + position * bytes, bytes);
      }
      logits = step(chunk.data());
    }
    return logits;
  }

  Logits prefill_in_chunks(const std::vector<Prompt>& prompts, std::size_t longest) {
    const std::size_t bytes = manifest().input().row_bytes(), width = model->info.output_width;
    outputs.resize(rows() * width);  // not cleared: they may be what is fed
    lengths.resize(rows());
    destinations.resize(rows());
    for (std::size_t row = 0; row < rows(); ++row) {
      if (prompts[row].length == 0) std::fill_n(outputs.data() + row * width, width, 0.0f);
    }
    for (std::size_t start = 0, positions; start < longest; start += positions) {
      positions = std::min(longest - start, static_cast<std::size_t>(model->info.chunk));
      chunk.assign(rows() * positions * bytes, std::byte{0});
      for (std::size_t row = 0; row < rows(); ++row) {
        const Prompt& prompt = prompts[row];
        const std::size_t begin = std::min(start, prompt.length), count = std::min(positions, prompt.length - begin);
        if (count) std::memcpy(chunk.data() + row * positions * bytes, prompt.data + begin * bytes, count * bytes);
        const bool ends = count && begin + count == prompt.length;
        lengths[row] = static_cast<std::int32_t>(count);
        destinations[row] = ends ? outputs.data() + row * width : nullptr;
      }
      const void* const input = chunk.data();
      batch->prefill({positions, &input, lengths.data()}, destinations.data());
    }
    return {outputs.data(), rows(), width};
  }

  // `what`, `other`: the call, and that which takes the other of tokens and vectors.
  void check_kind(bool tokens, const char* what, const char* other) const {
    const bool has_tokens = model->info.vocab_size > 0;
    const bool good = manifest().is_single();
    if (good && tokens == has_tokens) return;
    throw Error(ErrorCode::argument,
                !good ? std::string("This model is a network, which ") + what + " does not feed. Feed it with run."
                : has_tokens ? std::string("This model has a vocabulary. Feed it tokens, with ") + other + "."
                             : std::string("This model is a block stack. Feed it vectors, with ") + other + ".");
  }

  void check_vectors(const char* what, const char* other) const { check_kind(false, what, other); }

  void check_tokens(const char* what, const char* other, Span<const std::int64_t> tokens) const {
    check_kind(true, what, other);
    internal::check_tokens(manifest(), tokens);
  }

  void check_size(const char* what, std::size_t size, std::size_t expected) const {
    if (size != expected) {
      throw Error(ErrorCode::argument, std::string(what) + " got " + std::to_string(size) + " values for a batch of " +
                                           std::to_string(rows()) + "; it takes " + std::to_string(expected) + ".");
    }
  }
};

namespace {

std::vector<TensorInfo> tensor_infos(const std::vector<internal::TensorSpec>& specs) {
  std::vector<TensorInfo> infos;
  for (const internal::TensorSpec& spec : specs) {
    TensorInfo& info = infos.emplace_back(TensorInfo{spec.name, spec.dtype, spec.shape, spec.time_axis()});
    for (std::int64_t& extent : info.shape) extent = extent > 0 ? extent : -1;
  }
  return infos;
}

}  // namespace

Model Model::load(const std::filesystem::path& bundle, const Options& options) {
  auto impl = std::make_shared<Impl>();
  impl->bundle = bundle;
  if (options.chunk < 0) {
    throw Error(ErrorCode::argument,
                "The chunk is " + std::to_string(options.chunk) + "; give 1 or more positions, or 0 for the default.");
  }
  const Manifest& manifest = impl->manifest = internal::read_manifest(bundle);
  const bool tensorrt =
      options.backend == Backend::tensorrt || (options.backend == Backend::automatic && !options.engine.empty());
  std::string missing;
  std::error_code ignored;
  const auto require = [&](const std::string& name) {
    if (!std::filesystem::is_regular_file(bundle / name, ignored)) missing += (missing.empty() ? "" : ", ") + name;
  };
  if (!tensorrt) {
    require(internal::kModelFile);
    for (const std::string& name : manifest.weight_files) require(name);
  }
  if (!missing.empty()) {
    throw Error(ErrorCode::bundle,
                bundle.string() + " lacks " + missing + ". It was not copied whole: copy or export it again.");
  }
  impl->loaded = tensorrt ? internal::load_tensorrt(bundle, manifest, options)
                          : internal::load_onnxruntime(bundle, manifest, options);
  ModelInfo& info = impl->info;
  info.family = manifest.family;
  info.dtype = manifest.dtype;
  info.vocab_size = manifest.vocab_size;
  info.mode = manifest.mode;
  info.inputs = tensor_infos(manifest.inputs);
  info.outputs = tensor_infos(manifest.outputs);
  if (manifest.is_single()) {
    info.input_width = manifest.input().row_elements();
    info.output_width = manifest.output().row_elements();
  }
  info.batch = manifest.batch;
  info.state_bytes = manifest.state_row_bytes();
  info.tokenizer = manifest.tokenizer;
  info.bos_token = manifest.bos_token;
  info.eos_tokens = manifest.eos_tokens;
  info.forecast = manifest.forecast;
  info.gives_logits = manifest.gives_logits();
  info.backend = tensorrt ? "tensorrt" : "onnxruntime";
  info.device = impl->loaded->device();
  info.cuda_graph = impl->loaded->cuda_graph();
  info.chunk = std::min(options.chunk ? options.chunk : internal::kDefaultChunk, impl->loaded->max_chunk());
  return Model(std::move(impl));
}

Session Model::session(int batch) const {
  if (batch < 1) throw Error(ErrorCode::argument, "The batch is " + std::to_string(batch) + "; give 1 or more.");
  if (const int made_for = impl_->manifest.batch; made_for && batch != made_for) {
    throw Error(ErrorCode::argument, impl_->bundle.string() + " was exported for batch " + std::to_string(made_for) +
                                         ", not " + std::to_string(batch) + ". Export it with --batch dynamic or " +
                                         std::to_string(batch) + ".");
  }
  const Manifest& manifest = impl_->manifest;
  const auto rows = static_cast<std::size_t>(batch);
  for (const internal::TensorSpec& input : manifest.inputs) input.bytes(rows, 1);  // throws where nothing could hold it
  for (const internal::TensorSpec& output : manifest.outputs) output.bytes(rows, 1);
  if (manifest.state_row_elements() > std::numeric_limits<std::ptrdiff_t>::max() / sizeof(float) / rows) {
    throw Error(ErrorCode::runtime, "There is no memory for a batch of " + std::to_string(batch) + " of this model.");
  }
  return Session(std::make_unique<Session::Impl>(impl_, batch));
}

const ModelInfo& Model::info() const noexcept { return impl_->info; }

std::string Model::hash() const { return impl_->model_hash(); }

Session::Session(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Session::Session(Session&&) noexcept = default;
Session& Session::operator=(Session&&) noexcept = default;
Session::~Session() = default;

int Session::batch() const noexcept { return impl_->batch->size(); }

Logits Session::step(Span<const std::int64_t> tokens) {
  impl_->check_tokens("step", "step_vectors", tokens);
  impl_->check_size("step", tokens.size(), impl_->rows());
  return impl_->step(tokens.data());
}

Span<const std::int64_t> Session::step_and_sample(Span<const std::int64_t> tokens, Sampler& sampler) {
  impl_->check_tokens("step_and_sample", "step_vectors", tokens);
  impl_->check_size("step_and_sample", tokens.size(), impl_->rows());
  if (!impl_->manifest().gives_logits()) {
    throw Error(ErrorCode::argument,
                "This model gives vectors, not logits, so that no token can be drawn. Take its outputs with step.");
  }
  std::vector<std::int64_t>& drawn = impl_->drawn;
  if (impl_->batch->can_sample()) {
    if (sampler.sampling_.temperature != 0) {
      for (double& uniform : impl_->uniforms) uniform = sampler.uniform();
    }
    const void* const input = tokens.data();
    impl_->batch->step_and_sample({1, &input, nullptr}, sampler.sampling_, impl_->uniforms.data(), drawn.data());
  } else {
    const Logits logits = impl_->step(tokens.data());
    for (std::size_t row = 0; row < logits.rows; ++row) drawn[row] = sampler(logits[row]);
  }
  return {drawn.data(), drawn.size()};
}

Logits Session::step_vectors(Span<const float> inputs) {
  impl_->check_vectors("step_vectors", "step");
  impl_->check_size("step_vectors", inputs.size(), impl_->rows() * impl_->model->info.input_width);
  return impl_->step(inputs.data());
}

namespace {

// Texts of one length, row by row. `values`: all tokens or floats.
template <class Value>
std::vector<Session::Impl::Prompt> rows_of(const char* what, const Session::Impl& session, Span<const Value> values) {
  if (values.empty()) {
    throw Error(ErrorCode::argument, std::string(what) + " got no " +
                                         (std::is_same_v<Value, float> ? "vectors" : "tokens") +
                                         ". Give at least one for each row.");
  }
  const std::size_t width = session.model->info.input_width, length = values.size() / (session.rows() * width);
  session.check_size(what, values.size(), std::max<std::size_t>(length, 1) * session.rows() * width);
  std::vector<Session::Impl::Prompt> prompts;
  prompts.reserve(session.rows());
  for (std::size_t row = 0; row < session.rows(); ++row) {
    prompts.push_back({reinterpret_cast<const std::byte*>(values.data() + row * length * width), length});
  }
  return prompts;
}

}  // namespace

Logits Session::prefill(Span<const std::int64_t> tokens) {
  impl_->check_tokens("prefill", "prefill_vectors", tokens);
  return impl_->prefill(rows_of("prefill", *impl_, tokens));
}

Logits Session::prefill(const std::vector<std::vector<std::int64_t>>& prompts) {
  if (prompts.size() != impl_->rows()) {
    throw Error(ErrorCode::argument, "prefill got " + std::to_string(prompts.size()) + " prompts for a batch of " +
                                         std::to_string(batch()) + ". Give one for each row; it may be empty.");
  }
  std::vector<Impl::Prompt> rows;
  rows.reserve(prompts.size());
  for (const auto& prompt : prompts) {
    impl_->check_tokens("prefill", "prefill_vectors", prompt);
    rows.push_back({reinterpret_cast<const std::byte*>(prompt.data()), prompt.size()});
  }
  return impl_->prefill(rows);
}

Logits Session::prefill_vectors(Span<const float> inputs) {
  impl_->check_vectors("prefill_vectors", "prefill");
  return impl_->prefill(rows_of("prefill_vectors", *impl_, inputs));
}

Outputs Session::run(Span<const Input> inputs, Span<const std::int32_t> lengths) {
  return impl_->batch->run(impl_->named.check(inputs, lengths));
}

const Output& Outputs::operator[](std::string_view name) const {
  for (const Output& output : *this) {
    if (output.name == name) return output;
  }
  std::string names;
  for (const Output& output : *this) names += (names.empty() ? "" : ", ") + std::string(output.name);
  throw Error(ErrorCode::argument, "There is no output " + std::string(name) + ". The model gives " + names + ".");
}

void Session::reset() { impl_->batch->reset(-1); }

void Session::reset(int row) {
  if (row < 0 || row >= batch()) {
    throw Error(ErrorCode::argument,
                "There is no row " + std::to_string(row) + " in a batch of " + std::to_string(batch()) + ".");
  }
  impl_->batch->reset(row);
}

Session Session::fork() const {
  auto copy = std::make_unique<Impl>(impl_->model, batch());
  copy->batch->copy_states(*impl_->batch);
  return Session(std::move(copy));
}

std::vector<std::uint8_t> Session::save() const {
  return internal::encode_state(impl_->manifest(), impl_->model->model_hash(), batch(),
                                [this](float* payload) { impl_->batch->read_states(payload); });
}

namespace {

void load_state(Session::Impl& session, Span<const std::uint8_t> bytes, const std::string& where) {
  const Span<const std::uint8_t> payload =
      internal::decode_state(session.manifest(), session.model->model_hash(), session.batch->size(), bytes, where);
  std::vector<float> aligned(payload.size() / sizeof(float));
  if (!aligned.empty()) std::memcpy(aligned.data(), payload.data(), payload.size());
  session.batch->write_states(aligned.data());
}

}  // namespace

void Session::load(Span<const std::uint8_t> bytes) { load_state(*impl_, bytes, "the saved state"); }

void Session::save_file(const std::filesystem::path& path) const {
  const std::vector<std::uint8_t> bytes = save();
  std::filesystem::path partial = path;
  partial += ".partial";
  std::ofstream file(partial, std::ios::binary | std::ios::trunc);
  file.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  file.close();
  std::error_code failure;
  if (file) std::filesystem::rename(partial, path, failure);
  if (!file || failure) {
    std::error_code ignored;
    std::filesystem::remove(partial, ignored);
    throw Error(ErrorCode::argument,
                path.string() + " cannot be written" + (failure ? ": " + failure.message() : "") + ".");
  }
}

void Session::load_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw Error(ErrorCode::state, path.string() + " cannot be read.");
  const std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
  load_state(*impl_, {reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size()}, path.string());
}

const char* version() noexcept { return XLSTM_VERSION; }

}  // namespace xlstm
