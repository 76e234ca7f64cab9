// xlstm-generate: text, or token ids, from a bundle. Interactive without --prompt and --ids.
#include <chrono>
#include <cstdio>
#include <iostream>
#include <sstream>

#include "arguments.h"

namespace {

constexpr char kHelp[] =
    "usage: xlstm-generate BUNDLE [options]\n"
    "Continue a text. Without --prompt and --ids: read lines, continue each; the state carries over, an empty line "
    "resets.\n"
    "  --prompt TEXT      continue this (models with a byte tokenizer)\n"
    "  --ids IDS          continue these token ids, with commas; prints ids\n"
    "  --max-new-tokens N (default 200)\n"
    "  --temperature X    0: greedy (default 0.8)\n"
    "  --top-k N          0: all (default 0)\n"
    "  --top-p X          (default 1)\n"
    "  --seed N           (default 0)\n"
    "  --load FILE        begin from a saved state\n"
    "  --save FILE        save the state at the end\n";

class Generator {
 public:
  Generator(const xlstm::Model& model, const apps::Arguments& arguments)
      : session_(model.session()),
        sampler_({arguments.number("temperature", 0.8), arguments.count("top-k", 0), arguments.number("top-p", 1.0),
                  arguments.count("seed", 0)}),
        count_(arguments.count("max-new-tokens", 200)) {}

  xlstm::Session& session() { return session_; }

  // Feeds the prompt, then hands every drawn token to `show` and feeds it back: the state holds all that was shown.
  template <class Show>
  void run(std::vector<std::int64_t> prompt, Show&& show) {
    if (prompt.empty()) apps::Arguments::fail("the prompt is empty: give at least one token to start from.");
    std::vector<std::int64_t> token{prompt.back()};
    prompt.pop_back();
    if (!prompt.empty()) session_.prefill(prompt);
    const auto start = std::chrono::steady_clock::now();
    for (std::uint32_t i = 0; i < count_; ++i) {
      token[0] = session_.step_and_sample(token, sampler_)[0];
      show(token[0]);
    }
    session_.step(token);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    std::fprintf(stderr, "\n%u tokens, %.0f tokens/s\n", count_, count_ / seconds.count());
  }

 private:
  xlstm::Session session_;
  xlstm::Sampler sampler_;
  std::uint32_t count_;
};

std::vector<std::int64_t> parse_ids(const std::string& text) {
  std::vector<std::int64_t> ids;
  std::stringstream stream(text);
  for (std::string id; std::getline(stream, id, ',');) {
    try {
      std::size_t used = 0;
      ids.push_back(std::stoll(id, &used));
      if (used == id.size()) continue;
    } catch (const std::exception&) {
    }
    apps::Arguments::fail("--ids holds \"" + id + "\", not a number.");
  }
  return ids;
}

int run(int argc, char** argv) {
  auto names = apps::Arguments::model_names();
  names.insert({"prompt", "ids", "max-new-tokens", "temperature", "top-k", "top-p", "seed", "load", "save"});
  const apps::Arguments arguments(argc, argv, names, {"help"});
  if (arguments.has("help") || arguments.positional.size() != 1) {
    std::cout << kHelp << apps::model_help;
    return arguments.has("help") ? 0 : 2;
  }
  const auto model = xlstm::Model::load(arguments.positional[0], arguments.model_options());
  if (!model.info().vocab_size)
    apps::Arguments::fail("this bundle is a block stack without vocabulary: it has no tokens.");
  Generator generator(model, arguments);
  if (arguments.has("load")) generator.session().load_file(arguments.text("load"));
  if (arguments.has("ids")) {
    generator.run(parse_ids(arguments.text("ids")), [](std::int64_t token) { std::cout << token << std::endl; });
  } else {
    if (model.info().tokenizer != "bytes")
      apps::Arguments::fail(
          "this bundle has no byte tokenizer: give token ids with --ids, or link a tokenizer into an "
          "application of your own (see runtime/README.md).");
    const xlstm::ByteTokenizer tokenizer;
    const auto show = [](std::int64_t token) { std::cout << static_cast<char>(token) << std::flush; };
    if (arguments.has("prompt")) {
      std::cout << arguments.text("prompt") << std::flush;
      generator.run(tokenizer.encode(arguments.text("prompt")), show);
    } else {
      std::cerr << "> " << std::flush;
      for (std::string line; std::getline(std::cin, line); std::cerr << "> " << std::flush) {
        if (line.empty())
          generator.session().reset();
        else
          generator.run(tokenizer.encode(line), show);
      }
    }
  }
  if (arguments.has("save")) generator.session().save_file(arguments.text("save"));
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const xlstm::Error& error) {
    std::cerr << "error: " << error.what() << "\n";
    return 2;
  }
}
