// xlstm-generate: text, or token ids, from a bundle. Interactive without --prompt and --ids.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <iostream>
#include <limits>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

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
    "  --ignore-eos       go on where the model ends a text\n"
    "  --stop TEXT        end before this text appears (with a byte tokenizer)\n"
    "  --load FILE        begin from a saved state\n"
    "  --save FILE        save the state at the end\n";

// Text as it is generated, up to `stop`: what may be its beginning is held back.
class Output {
 public:
  explicit Output(std::string stop) : stop_(std::move(stop)) {}

  // Returns whether the text goes on.
  bool show(char letter) {
    held_ += letter;
    if (!stop_.empty() && held_.size() >= stop_.size() &&
        held_.compare(held_.size() - stop_.size(), stop_.size(), stop_) == 0) {
      held_.resize(held_.size() - stop_.size());
      return false;
    }
    std::size_t kept = std::min(held_.size(), stop_.empty() ? 0 : stop_.size() - 1);
    while (held_.compare(held_.size() - kept, kept, stop_, 0, kept) != 0) --kept;
    std::cout << held_.substr(0, held_.size() - kept) << std::flush;
    held_.erase(0, held_.size() - kept);
    return true;
  }

  void finish() {
    std::cout << held_ << std::flush;
    held_.clear();
  }

 private:
  std::string stop_, held_;
};

class Generator {
 public:
  Generator(const xlstm::Model& model, const apps::Arguments& arguments)
      : info_(model.info()),
        session_(model.session()),
        sampler_({arguments.number("temperature", 0.8), arguments.count("top-k", 0), arguments.number("top-p", 1.0),
                  arguments.count("seed", 0, std::numeric_limits<std::uint32_t>::max())}),
        count_(arguments.count("max-new-tokens", 200)),
        ignore_eos_(arguments.has("ignore-eos")),
        begins_(!arguments.has("load")) {
    if (arguments.has("load")) session_.load_file(arguments.text("load"));
  }

  void reset() {
    session_.reset();
    begins_ = true;
  }

  void save(const std::string& file) const { session_.save_file(file); }

  // Feeds the prompt, then hands every drawn token to `show`, until that says no, and feeds it back: the state holds
  // all that was drawn but a token that ended the text.
  template <class Show>
  void run(std::vector<std::int64_t> prompt, Show&& show) {
    const std::int64_t bos = info_.bos_token;
    if (begins_ && bos >= 0 && (prompt.empty() || prompt.front() != bos)) prompt.insert(prompt.begin(), bos);
    if (prompt.empty()) apps::fail("The prompt is empty; give at least one token to start from.");
    begins_ = false;
    std::vector<std::int64_t> token{prompt.back()};
    prompt.pop_back();
    if (!prompt.empty()) session_.prefill(prompt);
    const auto start = std::chrono::steady_clock::now();
    std::uint32_t drawn = 0;
    for (bool goes_on = true; goes_on && drawn < count_;) {
      const std::int64_t next = session_.step_and_sample(token, sampler_)[0];
      ++drawn;
      if (!ignore_eos_ && ends(next)) return report(drawn, start);
      token[0] = next;
      goes_on = show(next);
    }
    session_.step(token);
    report(drawn, start);
  }

 private:
  bool ends(std::int64_t token) const {
    return std::find(info_.eos_tokens.begin(), info_.eos_tokens.end(), token) != info_.eos_tokens.end();
  }

  static void report(std::uint32_t drawn, std::chrono::steady_clock::time_point start) {
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    std::fprintf(stderr, "\n%u tokens, %.0f tokens/s\n", drawn, drawn / seconds.count());
  }

  const xlstm::ModelInfo& info_;
  xlstm::Session session_;
  xlstm::Sampler sampler_;
  std::uint32_t count_;
  bool ignore_eos_, begins_;
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
  if (!model.info().gives_logits) {
    apps::fail("This bundle gives vectors, not logits, so it generates no tokens. Feed it from C++.");
  }
  Generator generator(model, arguments);
  if (arguments.has("ids")) {
    if (arguments.has("stop")) apps::fail("--stop is for text, and --ids prints token ids. Leave one of them out.");
    generator.run(parse_ids(arguments.text("ids")), [](std::int64_t token) {
      std::cout << token << "\n" << std::flush;
      return true;
    });
  } else {
    if (model.info().tokenizer != "bytes") {
      apps::fail(
          "This bundle has no byte tokenizer. Give token ids with --ids, or link a tokenizer into an application of "
          "your own (see runtime/README.md).");
    }
    const auto continue_text = [&](const std::string& text) {
      Output output(arguments.text("stop"));
      generator.run(xlstm::ByteTokenizer().encode(text),
                    [&](std::int64_t token) { return output.show(static_cast<char>(token)); });
      output.finish();
    };
    if (arguments.has("prompt")) {
      std::cout << arguments.text("prompt") << std::flush;
      continue_text(arguments.text("prompt"));
    } else {
      std::cerr << "> " << std::flush;
      for (std::string line; std::getline(std::cin, line); std::cerr << "> " << std::flush) {
        if (line.empty()) {
          generator.reset();
        } else {
          continue_text(line);
        }
      }
    }
  }
  if (arguments.has("save")) generator.save(arguments.text("save"));
}

}  // namespace

int main(int argc, char** argv) {
  return apps::application(
      argc, argv, kHelp,
      {"prompt", "ids", "max-new-tokens", "temperature", "top-k", "top-p", "seed", "stop", "load", "save"},
      {"ignore-eos"}, run);
}
