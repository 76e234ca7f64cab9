#include "xlstm/xlstm.hpp"

namespace xlstm {

Tokenizer::~Tokenizer() = default;

std::vector<std::int64_t> ByteTokenizer::encode(std::string_view text) const {
  std::vector<std::int64_t> tokens;
  tokens.reserve(text.size());
  for (const char c : text) tokens.push_back(static_cast<unsigned char>(c));
  return tokens;
}

std::string ByteTokenizer::decode(Span<const std::int64_t> tokens) const {
  std::string text;
  for (const std::int64_t token : tokens) {
    if (token < 0 || token > 255) {
      throw Error(ErrorCode::argument, "Token " + std::to_string(token) + " is not a byte.");
    }
    text += static_cast<char>(token);
  }
  return text;
}

}  // namespace xlstm
