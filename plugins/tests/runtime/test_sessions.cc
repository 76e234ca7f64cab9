// Sessions on a real bundle.   test_sessions behaviour | prefill | threads | c_api
#include <xlstm/xlstm.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <thread>

#include "check.h"

using xlstm::ErrorCode;
using xlstm::Session;
using Tokens = std::vector<std::int64_t>;

namespace {

std::vector<float> copy(const xlstm::Logits& logits) { return {logits.data, logits.data + logits.rows * logits.width}; }

Tokens random_tokens(std::size_t count, std::size_t vocabulary, std::uint32_t seed) {
  std::mt19937 random(seed);
  Tokens tokens(count);
  for (auto& token : tokens) token = random() % vocabulary;
  return tokens;
}

void behaviour() {
  const auto model = xlstm::Model::load(test_bundle(), test_options());
  const xlstm::ModelInfo& info = model.info();
  const std::size_t vocabulary = info.vocab_size;
  CHECK(info.backend == "onnxruntime" && info.device == "cpu" && info.output_width == vocabulary &&
        info.input_width == 1);
  CHECK(model.hash().size() == 64);

  // A fork goes on as the original does, and apart from it.
  const Tokens text = random_tokens(20, vocabulary, 1);
  Session a = model.session(), b = model.session();
  const auto last = copy(a.prefill(text));
  CHECK(copy(b.prefill(text)) == last);
  Session fork = a.fork();
  const auto ahead = copy(a.step(3));
  CHECK(copy(fork.step(3)) == ahead);
  CHECK(copy(fork.step(4)) != ahead);
  CHECK(copy(b.step(3)) == ahead);

  // reset: all rows, or one row and no other.
  a.reset();
  CHECK(copy(a.prefill(text)) == last);
  Session rows = model.session(3);
  Tokens batch;
  for (int row = 0; row < 3; ++row) batch.insert(batch.end(), text.begin(), text.end());
  rows.prefill(batch);
  Session kept = rows.fork();
  rows.reset(1);
  const Tokens next{5, 5, 5};
  const auto after = copy(rows.step(next)), without = copy(kept.step(next));
  const auto row = [&](const std::vector<float>& logits, std::size_t r) {
    return std::vector<float>(logits.begin() + r * vocabulary, logits.begin() + (r + 1) * vocabulary);
  };
  CHECK(row(after, 0) == row(without, 0) && row(after, 2) == row(without, 2) && row(after, 1) != row(without, 1));
  Session fresh = model.session(3);
  CHECK(row(copy(fresh.step(next)), 1) == row(after, 1));

  // step_and_sample is a step, and a draw for each row in their order.
  Session x = rows.fork(), y = rows.fork();
  xlstm::Sampler sampler_x({1.0, 0, 0.9, 3}), sampler_y({1.0, 0, 0.9, 3});
  for (int i = 0; i < 5; ++i) {
    const auto logits = x.step(next);
    const auto drawn = y.step_and_sample(next, sampler_y);
    CHECK(drawn.size() == 3);
    for (std::size_t r = 0; r < 3; ++r) CHECK(sampler_x(logits[r]) == drawn[r]);
  }
  CHECK(x.save() == y.save());

  // By name it is the same model.
  Session by_name = rows.fork();
  CHECK(info.mode == "both" && info.inputs.size() == 1 && info.outputs[0].name == "logits");
  for (const std::size_t length : {1, 9}) {
    const Tokens texts = random_tokens(3 * length, vocabulary, 5);
    const auto expected = length == 1 ? copy(rows.step(texts)) : copy(rows.prefill(texts));
    const auto output = by_name.run({{"tokens", texts}})[0];
    CHECK(expected == std::vector<float>(output.data, output.data + output.size()));
    CHECK(output.shape.size() == 3 && output.shape[0] == 3 && output.shape[1] == 1);
  }
  CHECK(by_name.save() == rows.save());
  check_error(ErrorCode::argument, "is outside the vocabulary", [&] { by_name.run({{"tokens", Tokens{1, -1, 1}}}); });

  // save and load; a refused state or argument leaves the session as it was.
  const auto saved = a.save();
  const auto expected = copy(a.step(7));
  a.prefill(text);
  a.load(saved);
  auto damaged = saved;
  damaged.back() ^= 1;
  check_error(ErrorCode::state, "the saved state is damaged", [&] { a.load(damaged); });
  check_error(ErrorCode::state, "holds 1 sequences", [&] { rows.load(saved); });
  check_error(ErrorCode::argument, "is outside the vocabulary", [&] { a.step(static_cast<std::int64_t>(vocabulary)); });
  check_error(ErrorCode::argument, "Token -1 is outside", [&] { a.step(-1); });
  check_error(ErrorCode::argument, "step got 2 values for a batch of 1; it takes 1.", [&] { a.step(Tokens{1, 2}); });
  check_error(ErrorCode::argument, "prefill got no tokens", [&] { a.prefill(Tokens{}); });
  check_error(ErrorCode::argument, "it takes 3", [&] { rows.prefill(Tokens{1, 2, 3, 4}); });
  check_error(ErrorCode::argument, "Feed it tokens, with step", [&] { a.step_vectors(std::vector<float>{1}); });
  check_error(ErrorCode::argument, "There is no row 3 in a batch of 3", [&] { rows.reset(3); });
  check_error(ErrorCode::argument, "The batch is 0; give 1 or more.", [&] { model.session(0); });
  CHECK(copy(a.step(7)) == expected);

  // Files; a session outlives its model.
  const auto path =
      std::filesystem::temp_directory_path() / ("xlstm_test_" + std::to_string(std::random_device{}()) + ".state");
  a.save_file(path);
  Session moved = [&] { return xlstm::Model::load(test_bundle(), test_options()).session(); }();
  moved.load_file(path);
  CHECK(copy(moved.step(9)) == copy(a.step(9)));
  std::filesystem::remove(path);
  check_error(ErrorCode::state, "cannot be read", [&] { moved.load_file(path); });
  check_error(ErrorCode::argument, "cannot be written", [&] { moved.save_file("/nonexistent/state"); });

  xlstm::Options options = test_options();
  options.custom_ops = "/nonexistent/ops.so";
  check_error(ErrorCode::unavailable, "There is no custom-op library at /nonexistent/ops.so",
              [&] { xlstm::Model::load(test_bundle(), options); });
  options = test_options();
  options.onnxruntime_library = "/nonexistent/libonnxruntime.so";
  check_error(ErrorCode::unavailable, "A process can use one", [&] { xlstm::Model::load(test_bundle(), options); });
  options = test_options();
  options.backend = xlstm::Backend::tensorrt;
  check_error(ErrorCode::unavailable, "TensorRT", [&] { xlstm::Model::load(test_bundle(), options); });
}

// Both hold (rows, vocabulary). float32 in another order of additions, over hundreds of recurrent steps: 1e-4 of the
// spread of the logits.
void check_close(const std::vector<float>& found, const std::vector<float>& expected) {
  CHECK(found.size() == expected.size());
  const auto [low, high] = std::minmax_element(expected.begin(), expected.end());
  const float tolerance = 1e-4f * (*high - *low);
  CHECK(tolerance > 0);
  for (std::size_t i = 0; i < found.size(); ++i) CHECK(std::abs(found[i] - expected[i]) <= tolerance);
}

// Prompts in chunks give what steps give, whatever the chunk, in a batch what they give alone.
void prefill() {
  constexpr std::size_t kLongest = 300;
  xlstm::Options options = test_options();
  options.chunk = 1;
  const auto stepper = xlstm::Model::load(test_bundle(), options);
  CHECK(stepper.info().chunk == 1 && xlstm::Model::load(test_bundle(), test_options()).info().chunk == 256);
  const std::size_t vocabulary = stepper.info().vocab_size;
  const Tokens text = random_tokens(kLongest, vocabulary, 2);
  const auto beginning = [&](std::size_t length) { return Tokens(text.begin(), text.begin() + length); };
  std::vector<std::vector<float>> expected, following;  // after the first n tokens, and after one more
  Session steps = stepper.session();
  for (const auto token : text) {
    expected.push_back(copy(steps.step(token)));
    following.push_back(copy(steps.fork().step(7)));
  }

  // Chunks of one position are steps, to the bit.
  CHECK(copy(stepper.session().prefill(text)) == expected.back());

  for (const int chunk : {1, 7, 64, 256}) {
    options.chunk = chunk;
    const auto model = xlstm::Model::load(test_bundle(), options);
    for (const std::size_t length : {1, 2, 6, 7, 8, 63, 64, 65, 128, 255, 256, 257, 300}) {
      Session session = model.session();
      check_close(copy(session.prefill(beginning(length))), expected[length - 1]);
      check_close(copy(session.step(7)), following[length - 1]);
    }

    // Different lengths, two rows idle: each row as alone, and nothing in the rows beside it changes that.
    const std::vector<std::size_t> lengths{65, 0, 300, 1, 0, 7};
    const auto prompts = [&](const std::vector<std::size_t>& sizes) {
      std::vector<Tokens> result;
      result.reserve(sizes.size());
      for (const std::size_t size : sizes) result.push_back(beginning(size));
      return result;
    };
    Session batch = model.session(static_cast<int>(lengths.size()));
    batch.prefill(prompts({5, 5, 0, 0, 0, 0}));  // row 1 has a state to keep
    batch.reset(0);
    Session kept = batch.fork();
    const auto logits = batch.prefill(prompts(lengths));
    for (std::size_t row = 0; row < lengths.size(); ++row) {
      const std::vector<float> found(logits[row].begin(), logits[row].end());
      if (lengths[row]) {
        check_close(found, expected[lengths[row] - 1]);
      } else {
        CHECK(found == std::vector<float>(vocabulary));
      }
    }
    const auto after = batch.step(Tokens(lengths.size(), 7)), idle = kept.step(Tokens(lengths.size(), 7));
    for (std::size_t row = 0; row < lengths.size(); ++row) {
      const std::vector<float> found(after[row].begin(), after[row].end());
      if (lengths[row]) {
        check_close(found, following[lengths[row] - 1]);
      } else {
        CHECK(found == std::vector<float>(idle[row].begin(), idle[row].end()));
      }
    }
    const auto saved = batch.save();
    CHECK(copy(batch.prefill(prompts({0, 0, 0, 0, 0, 0}))) == std::vector<float>(lengths.size() * vocabulary));
    CHECK(batch.save() == saved);

    // A conversation in pieces is one prompt.
    Session pieces = model.session();
    std::vector<float> last;
    for (std::size_t start = 0; start < kLongest; start += 60) {
      last = copy(pieces.prefill(Tokens(text.begin() + start, text.begin() + start + 60)));
    }
    check_close(last, expected.back());

    // Errors change nothing.
    Tokens wrong = text;
    wrong.back() = static_cast<std::int64_t>(vocabulary);
    check_error(ErrorCode::argument, "is outside the vocabulary", [&] { batch.prefill({{1}, {}, wrong, {}, {}, {}}); });
    check_error(ErrorCode::argument, "prefill got 2 prompts for a batch of 6",
                [&] { batch.prefill({{1, 2}, {3, 4}}); });
    check_error(ErrorCode::argument, "it takes 6", [&] { batch.prefill(beginning(7)); });
    check_error(ErrorCode::argument, "Feed it tokens, with prefill",
                [&] { batch.prefill_vectors(std::vector<float>(6)); });
    CHECK(batch.save() == saved);
  }
  options.chunk = -1;
  check_error(ErrorCode::argument, "The chunk is -1; give 1 or more positions, or 0",
              [&] { xlstm::Model::load(test_bundle(), options); });
}

// Eight sessions of one model on eight threads: each gives what it gives alone.
void threads() {
  constexpr int kThreads = 8, kSteps = 1250;
  const auto model = xlstm::Model::load(test_bundle(), test_options());
  const std::size_t vocabulary = model.info().vocab_size;
  const auto run = [&](std::uint32_t seed) {
    Session session = model.session();
    session.prefill(random_tokens(30 + seed, vocabulary, seed));
    xlstm::Sampler sampler({1.0, 0, 1.0, seed});
    std::vector<std::uint8_t> trace;
    std::int64_t token = seed % vocabulary;
    for (int i = 0; i < kSteps; ++i) {
      const auto logits = session.step(token);
      if (i % 50 == 0) {
        const auto bytes = reinterpret_cast<const std::uint8_t*>(logits.data);
        trace.insert(trace.end(), bytes, bytes + vocabulary * sizeof(float));
      }
      token = sampler(logits[0]);
    }
    const auto state = session.save();
    trace.insert(trace.end(), state.begin(), state.end());
    return trace;
  };
  std::vector<std::vector<std::uint8_t>> together(kThreads);
  std::vector<std::thread> workers;
  workers.reserve(kThreads);
  for (int i = 0; i < kThreads; ++i) {
    workers.emplace_back([&, i] { together[static_cast<std::size_t>(i)] = run(static_cast<std::uint32_t>(i)); });
  }
  for (auto& worker : workers) worker.join();
  for (int i = 0; i < kThreads; ++i) CHECK(together[static_cast<std::size_t>(i)] == run(static_cast<std::uint32_t>(i)));
}

void c_api() {
  const std::string bundle = test_bundle();
  xlstm_options options = xlstm_default_options();
  options.device = XLSTM_DEVICE_CPU;
  options.threads = 1;
  xlstm_model* model = nullptr;
  CHECK(xlstm_model_load("/nonexistent", &options, &model) == XLSTM_ERROR_BUNDLE && model == nullptr);
  CHECK(std::strstr(xlstm_last_error(), "is not a bundle"));
  CHECK(xlstm_model_load(nullptr, &options, &model) == XLSTM_ERROR_ARGUMENT);
  options.size = 1;
  CHECK(xlstm_model_load(bundle.c_str(), &options, &model) == XLSTM_ERROR_ARGUMENT);
  options.size = sizeof options;
  CHECK(xlstm_model_load(bundle.c_str(), &options, &model) == XLSTM_OK);
  const std::size_t vocabulary = xlstm_model_vocab_size(model);
  CHECK(xlstm_model_output_width(model) == vocabulary && xlstm_model_input_width(model) == 1);

  xlstm_session *session = nullptr, *fork = nullptr;
  CHECK(xlstm_session_create(model, 1, &session) == XLSTM_OK);
  const std::int64_t text[] = {1, 2, 3};
  const float *logits = nullptr, *others = nullptr;
  CHECK(xlstm_session_prefill(session, text, 3, &logits) == XLSTM_OK);
  CHECK(xlstm_session_fork(session, &fork) == XLSTM_OK);

  // Two texts one after another, in a batch: as the first alone, and an idle row between.
  xlstm_session* rows = nullptr;
  const std::int64_t texts[] = {1, 2, 3, 5};
  const std::size_t lengths[] = {3, 0, 1};
  CHECK(xlstm_session_create(model, 3, &rows) == XLSTM_OK);
  CHECK(xlstm_session_prefill_rows(rows, texts, lengths, 2, &others) == XLSTM_ERROR_ARGUMENT);
  CHECK(xlstm_session_prefill_rows(rows, texts, lengths, 3, &others) == XLSTM_OK);
  check_close({others, others + vocabulary}, {logits, logits + vocabulary});
  CHECK(std::all_of(others + vocabulary, others + 2 * vocabulary, [](float logit) { return logit == 0; }));
  CHECK(xlstm_session_reset(rows, -1) == XLSTM_OK);
  const std::vector<float> third(others + 2 * vocabulary, others + 3 * vocabulary);
  const std::int64_t fives[] = {5, 5, 5};
  CHECK(xlstm_session_step(rows, fives, 3, &others) == XLSTM_OK);
  check_close(third, {others, others + vocabulary});
  const float zero = 0;
  CHECK(xlstm_session_prefill_vectors(rows, &zero, 1, &others) == XLSTM_ERROR_ARGUMENT);
  xlstm_session_free(rows);

  std::size_t size = 0, again = 0;
  CHECK(xlstm_session_save(session, nullptr, 0, &size) == XLSTM_OK && size > xlstm_model_state_bytes(model));
  std::vector<char> bytes(size);
  CHECK(xlstm_session_save(session, bytes.data(), size - 1, &again) == XLSTM_ERROR_ARGUMENT && again == size);
  CHECK(xlstm_session_save(session, bytes.data(), size, &again) == XLSTM_OK);
  CHECK(xlstm_session_load(session, bytes.data(), size - 1) == XLSTM_ERROR_STATE);
  CHECK(std::strstr(xlstm_last_error(), "truncated"));
  CHECK(xlstm_session_load(session, bytes.data(), size) == XLSTM_OK);
  CHECK(xlstm_session_step(session, text, 1, &logits) == XLSTM_OK &&
        xlstm_session_step(fork, text, 1, &others) == XLSTM_OK);
  CHECK(std::memcmp(logits, others, vocabulary * sizeof(float)) == 0);
  const std::vector<float> expected(logits, logits + vocabulary);
  CHECK(xlstm_session_step(session, text, 2, &logits) == XLSTM_ERROR_ARGUMENT);

  xlstm_sampler* sampler = nullptr;
  CHECK(xlstm_sampler_create(-1, 0, 1, 0, &sampler) == XLSTM_ERROR_ARGUMENT && sampler == nullptr);
  CHECK(xlstm_sampler_create(0, 0, 1, 0, &sampler) == XLSTM_OK);
  std::int64_t token = -1;
  CHECK(xlstm_sampler_draw(sampler, logits, vocabulary, &token) == XLSTM_OK);
  CHECK(token >= 0 && static_cast<std::size_t>(token) < vocabulary);

  std::int64_t drawn = -1;
  CHECK(xlstm_session_step_and_sample(fork, sampler, &token, 1, &drawn) == XLSTM_OK);
  CHECK(xlstm_session_step(session, &token, 1, &logits) == XLSTM_OK);
  CHECK(xlstm_sampler_draw(sampler, logits, vocabulary, &token) == XLSTM_OK && token == drawn);
  CHECK(xlstm_session_step_and_sample(fork, nullptr, &token, 1, &drawn) == XLSTM_ERROR_ARGUMENT);

  const std::int64_t* ends = nullptr;
  CHECK(xlstm_model_bos_token(model) == -1 && xlstm_model_eos_tokens(model, &ends) == 0);

  xlstm_model_free(model);  // the sessions keep it alive
  CHECK(xlstm_session_reset(session, -1) == XLSTM_OK && xlstm_session_reset(session, 1) == XLSTM_ERROR_ARGUMENT);
  CHECK(xlstm_session_prefill(session, text, 3, &logits) == XLSTM_OK);
  CHECK(xlstm_session_step(session, text, 1, &logits) == XLSTM_OK);
  CHECK(std::vector<float>(logits, logits + vocabulary) == expected);
  xlstm_sampler_free(sampler);
  xlstm_session_free(fork);
  xlstm_session_free(session);
  xlstm_session_free(nullptr);
}

}  // namespace

int main(int argc, char** argv) {
  const std::string name = argc == 2 ? argv[1] : "";
  if (name == "behaviour") {
    behaviour();
  } else if (name == "prefill") {
    prefill();
  } else if (name == "threads") {
    threads();
  } else if (name == "c_api") {
    c_api();
  } else {
    return 64;
  }
}
