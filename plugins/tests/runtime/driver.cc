// Drives a session for tests/native_runtime: feeds a file of inputs, writes what comes out.
//
//   runtime_driver steps BUNDLE BATCH INPUTS OUTPUTS [custom_ops=LIBRARY] [threads=N] [load=STATE] [save=STATE]
//                  [device=cuda] [graph=0] [engine=FILE]
//       INPUTS: (steps, batch) int64 tokens, or (steps, batch, width) float32; OUTPUTS: (steps, batch, width) float32
//   runtime_driver prefill BUNDLE LENGTHS INPUTS OUTPUTS [chunk=N] [the same]
//       LENGTHS: of the rows' prompts, with commas; INPUTS: prompt after prompt (vectors: of one length); OUTPUTS:
//       (2, batch, width) float32, after the prompts and after a step of zeros, or with feedback=1 (vectors) of what
//       came out, from where it lies
//   runtime_driver run BUNDLE BATCH FOLDER ACTION... [the same]
//       ACTION: `pass` feeds FOLDER/K.in.NAME, and FOLDER/K.lengths where it is there (K: 0 for the first pass), writes
//       FOLDER/K.out.NAME and prints their shapes; `pass!`: the same, and must fail; `reset`, `reset:ROW`, `save:FILE`,
//       `load:FILE`; `fork` goes on with a fork, after the original has had a pass of its own, of the last inputs
//   runtime_driver tokens BUNDLE PROMPT COUNT TEMPERATURE TOP_K TOP_P SEED [cuda]
//       PROMPT: ids with commas; prints COUNT ids. They are drawn twice, by step_and_sample and on the host, and must
//       agree
//   runtime_driver draw LOGITS WIDTH TEMPERATURE TOP_K TOP_P SEED
//       LOGITS: (rows, WIDTH) float32; prints the token that a sampler draws from each row
//   runtime_driver check manifest FILE... | engine FILE... | state MANIFEST BATCH FILE...
//       reads each as what it says and prints `ok`, or the name of its ErrorCode
//   runtime_driver hash MANIFEST
//       prints the model's hash
//   runtime_driver engine BUNDLE BATCH MAJOR [FILE]
//       prints the engine that TensorRT MAJOR runs the bundle with (FILE: named by the user), or the name of the
//       ErrorCode; BATCH 0: not known
#include <xlstm/xlstm.hpp>

#include <cstdio>
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <sstream>

#include "runtime/engine_choice.h"
#include "runtime/engine_record.h"
#include "runtime/manifest.h"
#include "runtime/state_file.h"

namespace {

using Named = std::map<std::string, std::string>;

Named named_arguments(int argc, char** argv, int first) {
  Named named;
  for (int i = first; i < argc; ++i) {
    const std::string argument = argv[i];
    named[argument.substr(0, argument.find('='))] = argument.substr(argument.find('=') + 1);
  }
  return named;
}

// Says what it runs on.
xlstm::Model load(const char* bundle, Named& named) {
  xlstm::Options options;
  options.device = named["device"] == "cuda" ? xlstm::Device::cuda : xlstm::Device::cpu;
  options.cuda_graph = named["graph"] != "0";
  options.engine = named["engine"];
  options.custom_ops = named["custom_ops"];
  if (named["activations"] == "float32") options.activations = xlstm::Activations::float32;
  if (!named["threads"].empty()) options.threads = std::stoi(named["threads"]);
  if (!named["chunk"].empty()) options.chunk = std::stoi(named["chunk"]);
  const auto model = xlstm::Model::load(bundle, options);
  std::printf("%s %s%s\n", model.info().backend.c_str(), model.info().device.c_str(),
              model.info().cuda_graph ? " graph" : "");
  return model;
}

std::vector<char> contents(const char* path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void write(std::ofstream& file, const xlstm::Logits& logits) {
  file.write(reinterpret_cast<const char*>(logits.data),
             static_cast<std::streamsize>(logits.rows * logits.width * sizeof(float)));
}

template <class Number>
std::vector<Number> numbers(const std::string& text) {
  std::vector<Number> result;
  std::stringstream stream(text);
  for (std::string number; std::getline(stream, number, ',');) result.push_back(std::stoll(number));
  return result;
}

int steps(int argc, char** argv) {
  Named named = named_arguments(argc, argv, 6);
  const auto model = load(argv[2], named);
  auto session = model.session(std::stoi(argv[3]));
  if (!named["load"].empty()) session.load_file(named["load"]);

  const std::vector<char> inputs = contents(argv[4]);
  std::ofstream outputs(argv[5], std::ios::binary);
  const std::size_t values = model.info().input_width * static_cast<std::size_t>(session.batch());
  const bool tokens = model.info().vocab_size > 0;
  const std::size_t bytes = values * (tokens ? sizeof(std::int64_t) : sizeof(float));
  std::vector<std::int64_t> ids(values);
  std::vector<float> vectors(values);
  for (std::size_t at = 0; at + bytes <= inputs.size(); at += bytes) {
    std::memcpy(tokens ? static_cast<void*>(ids.data()) : vectors.data(), inputs.data() + at, bytes);
    write(outputs, tokens ? session.step(ids) : session.step_vectors(vectors));
  }
  if (!named["save"].empty()) session.save_file(named["save"]);
  return outputs.good() ? 0 : 1;
}

int prefill(int argc, char** argv) {
  Named named = named_arguments(argc, argv, 6);
  const auto model = load(argv[2], named);
  const auto lengths = numbers<std::size_t>(argv[3]);
  auto session = model.session(static_cast<int>(lengths.size()));
  if (!named["load"].empty()) session.load_file(named["load"]);
  const std::vector<char> inputs = contents(argv[4]);
  std::ofstream outputs(argv[5], std::ios::binary);
  const std::size_t values = model.info().input_width * lengths.size();
  if (model.info().vocab_size) {
    std::vector<std::vector<std::int64_t>> prompts;
    auto* token = reinterpret_cast<const std::int64_t*>(inputs.data());
    for (const std::size_t length : lengths) prompts.emplace_back(token, token + length), token += length;
    write(outputs, session.prefill(prompts));
    write(outputs, session.step(std::vector<std::int64_t>(values)));
  } else {
    const auto* vectors = reinterpret_cast<const float*>(inputs.data());
    const xlstm::Logits last = session.prefill_vectors({vectors, inputs.size() / sizeof(float)});
    write(outputs, last);
    write(outputs, named["feedback"].empty() ? session.step_vectors(std::vector<float>(values))
                                             : session.prefill_vectors({last.data, values}));
  }
  if (!named["save"].empty()) session.save_file(named["save"]);
  return outputs.good() ? 0 : 1;
}

// The inputs of one pass from files; they belong to this.
class Pass {
 public:
  Pass(const xlstm::ModelInfo& info, const std::filesystem::path& folder, int index) {
    const std::string prefix = (folder / std::to_string(index)).string();
    for (const xlstm::TensorInfo& input : info.inputs) {
      bytes_.push_back(contents((prefix + ".in." + input.name).c_str()));
      const char* const data = bytes_.back().data();
      const std::size_t size = bytes_.back().size();
      if (input.dtype == "float32") {
        inputs.emplace_back(input.name, xlstm::Span<const float>(reinterpret_cast<const float*>(data), size / 4));
      } else if (input.dtype == "int32") {
        inputs.emplace_back(input.name, xlstm::Span<const int32_t>(reinterpret_cast<const int32_t*>(data), size / 4));
      } else {
        inputs.emplace_back(input.name, xlstm::Span<const int64_t>(reinterpret_cast<const int64_t*>(data), size / 8));
      }
    }
    if (std::filesystem::exists(prefix + ".lengths")) bytes_.push_back(contents((prefix + ".lengths").c_str()));
    if (bytes_.size() > inputs.size()) {
      lengths = {reinterpret_cast<const std::int32_t*>(bytes_.back().data()), bytes_.back().size() / 4};
    }
  }

  std::vector<xlstm::Input> inputs;
  xlstm::Span<const std::int32_t> lengths;

 private:
  std::vector<std::vector<char>> bytes_;
};

int run(int argc, char** argv) {
  Named named = named_arguments(argc, argv, 5);
  const auto model = load(argv[2], named);
  auto session = model.session(std::stoi(argv[3]));
  const std::filesystem::path folder = argv[4];
  int index = 0;
  for (int i = 5; i < argc; ++i) {
    const std::string action = argv[i], verb = action.substr(0, action.find(':'));
    const std::string value = verb == action ? "" : action.substr(verb.size() + 1);
    if (action.find('=') != std::string::npos) continue;
    if (verb == "reset") value.empty() ? session.reset() : session.reset(std::stoi(value));
    if (verb == "save") session.save_file(value);
    if (verb == "load") session.load_file(value);
    if (verb == "fork") {
      auto fork = session.fork();
      const Pass last(model.info(), folder, index - 1);
      session.run(last.inputs, last.lengths);
      session = std::move(fork);
    }
    if (verb != "pass" && verb != "pass!") continue;
    const Pass pass(model.info(), folder, index);
    try {
      for (const xlstm::Output& output : session.run(pass.inputs, pass.lengths)) {
        std::ofstream(folder / (std::to_string(index) + ".out." + std::string(output.name)), std::ios::binary)
            .write(reinterpret_cast<const char*>(output.data),
                   static_cast<std::streamsize>(output.size() * sizeof(float)));
        std::printf("%d %s", index, std::string(output.name).c_str());
        for (const std::int64_t extent : output.shape) std::printf(" %lld", static_cast<long long>(extent));
        std::puts("");
      }
      if (verb == "pass!") throw std::runtime_error("a pass that must fail did not");
    } catch (const xlstm::Error& error) {
      if (verb == "pass") throw;
      std::printf("%d failed %d\n", index, static_cast<int>(error.code()));
    }
    ++index;
  }
  return 0;
}

int tokens(int argc, char** argv) {
  xlstm::Options options;
  options.device = argc > 9 ? xlstm::Device::cuda : xlstm::Device::cpu;
  const auto model = xlstm::Model::load(argv[2], options);
  auto session = model.session(), twin = model.session();
  auto prompt = numbers<std::int64_t>(argv[3]);
  const std::int64_t last = prompt.back();
  prompt.pop_back();
  xlstm::Sampler sampler(
      {std::stod(argv[5]), std::stoul(argv[6]), std::stod(argv[7]), static_cast<std::uint32_t>(std::stoul(argv[8]))});
  xlstm::Sampler twin_sampler = sampler;
  if (!prompt.empty()) session.prefill(prompt), twin.prefill(prompt);
  std::vector<std::int64_t> token{last};
  for (int count = std::stoi(argv[4]); count > 0; --count) {
    const std::int64_t expected = twin_sampler(twin.step(token)[0]);
    token[0] = session.step_and_sample(token, sampler)[0];
    if (token[0] != expected) {
      throw xlstm::Error(xlstm::ErrorCode::runtime, "step_and_sample differs from the host's choice");
    }
    std::printf("%lld\n", static_cast<long long>(token[0]));
  }
  return 0;
}

int draw(char** argv) {
  const std::vector<char> bytes = contents(argv[2]);
  const auto width = std::stoul(argv[3]);
  xlstm::Sampler sampler(
      {std::stod(argv[4]), std::stoul(argv[5]), std::stod(argv[6]), static_cast<std::uint32_t>(std::stoul(argv[7]))});
  std::vector<float> logits(width);
  for (std::size_t at = 0; at < bytes.size(); at += width * sizeof(float)) {
    std::memcpy(logits.data(), bytes.data() + at, width * sizeof(float));
    std::printf("%lld\n", static_cast<long long>(sampler(logits)));
  }
  return 0;
}

// Prints what `body` returns, or the name of the ErrorCode that it fails with.
template <class Body>
void print_answer(Body&& body) {
  constexpr const char* kNames[] = {"", "bundle", "unavailable", "argument", "state", "runtime"};
  try {
    std::puts(body().c_str());
  } catch (const xlstm::Error& error) {
    std::puts(kNames[static_cast<int>(error.code())]);
  }
}

std::string text_of(const std::string& path) {
  const std::vector<char> bytes = contents(path.c_str());
  return {bytes.begin(), bytes.end()};
}

xlstm::internal::Manifest manifest_of(const char* path) { return xlstm::internal::parse_manifest(text_of(path), path); }

std::string hash_of(const char* path) {
  return xlstm::internal::model_hash(std::filesystem::path(path).parent_path(), manifest_of(path));
}

void check(const std::string& kind, int argc, char** argv) {
  for (int i = kind == "state" ? 5 : 3; i < argc; ++i) {
    print_answer([&] {
      const std::string text = text_of(argv[i]);
      if (kind == "manifest") {
        xlstm::internal::parse_manifest(text, argv[i]);
      } else if (kind == "engine") {
        xlstm::internal::parse_engine_record(text, argv[i]);
      } else {
        const xlstm::Span<const std::uint8_t> bytes(reinterpret_cast<const std::uint8_t*>(text.data()), text.size());
        xlstm::internal::decode_state(manifest_of(argv[3]), hash_of(argv[3]), std::stoi(argv[4]), bytes, argv[i]);
      }
      return std::string("ok");
    });
  }
}

void choose_engine(int argc, char** argv) {
  const xlstm::internal::Wanted wanted{argv[2], std::stoi(argv[3]), std::stoi(argv[4])};
  print_answer([&] { return xlstm::internal::choose_engine(wanted, argc > 5 ? argv[5] : "").path.string(); });
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const std::string command = argc > 1 ? argv[1] : "";
    if (command == "steps" && argc >= 6) return steps(argc, argv);
    if (command == "prefill" && argc >= 6) return prefill(argc, argv);
    if (command == "run" && argc >= 6) return run(argc, argv);
    if (command == "tokens" && argc >= 9) return tokens(argc, argv);
    if (command == "draw" && argc == 8) return draw(argv);
    if (command == "check" && argc >= 3) return check(argv[2], argc, argv), 0;
    if (command == "hash" && argc == 3) return std::puts(hash_of(argv[2]).c_str()), 0;
    if (command == "engine" && argc >= 5) return choose_engine(argc, argv), 0;
    std::cerr << "see the head of driver.cc\n";
    return 64;
  } catch (const xlstm::Error& error) {
    std::cerr << "error " << static_cast<int>(error.code()) << ": " << error.what() << "\n";
    return 2;
  }
}
