// xlstm-generate: text, or token ids, from a bundle. Interactive without --prompt and --ids.
#include <chrono>
#include <cstdio>
#include <iostream>
#include <limits>
#include <sstream>

#include "arguments.h"

namespace {

constexpr char kHelp[] =
    "usage: xlstm-generate BUNDLE [options]\n"
    "Continue a text. Without --prompt and --ids: read lines, continue each; the state carries over, an empty line "
    "resets.\n"
    "  --prompt TEXT      text to continue, by a model with a byte tokenizer\n"
    "  --ids IDS          token ids to continue, with commas; prints ids\n"
    "  --max-new-tokens N tokens to draw (default 200)\n"
    "  --temperature X    0 takes the most likely token; higher is more varied (default 0.8)\n"
    "  --top-k N          draw from the N most likely tokens; 0: from all (default 0)\n"
    "  --top-p X          draw from the most likely tokens that have this probability together (default 1)\n"
    "  --seed N           of the random numbers (default 0)\n"
    "  --load FILE        begin from a saved state\n"
    "  --save FILE        save the state at the end\n";

class Generator {
 public:
  Generator(const xlstm::Model& model, const apps::Arguments& arguments)
      : session_(model.session()),
        sampler_({arguments.number("temperature", 0.8), arguments.count("top-k", 0), arguments.number("top-p", 1.0),
                  arguments.count("seed", 0, std::numeric_limits<std::uint32_t>::max())}),
        count_(arguments.count("max-new-tokens", 200)) {}

  xlstm::Session& session() { return session_; }

  // Feeds the prompt, then hands every drawn token to `show` and feeds it back: the state holds all that was shown.
  template <class Show>
  void run(std::vector<std::int64_t> prompt, Show&& show) {
    if (prompt.empty()) apps::fail("The prompt is empty; give at least one token to start from.");
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
    apps::fail("--ids holds \"" + id + "\"; give numbers with commas between them.");
  }
  return ids;
}

void run(const apps::Arguments& arguments) {
  const auto model = arguments.load();
  if (!model.info().vocab_size) {
    apps::fail(
        "This bundle is a block stack without a vocabulary, so it generates no tokens. Feed it vectors from C++.");
  }
  Generator generator(model, arguments);
  if (arguments.has("load")) generator.session().load_file(arguments.text("load"));
  if (arguments.has("ids")) {
    generator.run(parse_ids(arguments.text("ids")), [](std::int64_t token) {
      std::cout << token << "\n" << std::flush;
    });
  } else {
    if (model.info().tokenizer != "bytes") {
      apps::fail(
          "This bundle has no byte tokenizer. Give token ids with --ids, or link a tokenizer into an application of "
          "your "
          "own (see runtime/README.md).");
    }
    const xlstm::ByteTokenizer tokenizer;
    const auto show = [](std::int64_t token) { std::cout << static_cast<char>(token) << std::flush; };
    if (arguments.has("prompt")) {
      std::cout << arguments.text("prompt") << std::flush;
      generator.run(tokenizer.encode(arguments.text("prompt")), show);
    } else {
      std::cerr << "> " << std::flush;
      for (std::string line; std::getline(std::cin, line); std::cerr << "> " << std::flush) {
        if (line.empty()) {
          generator.session().reset();
        } else {
          generator.run(tokenizer.encode(line), show);
        }
      }
    }
  }
  if (arguments.has("save")) generator.session().save_file(arguments.text("save"));
}

}  // namespace

int main(int argc, char** argv) {
  return apps::application(argc, argv, kHelp,
                           {"prompt", "ids", "max-new-tokens", "temperature", "top-k", "top-p", "seed", "load", "save"},
                           run);
}
