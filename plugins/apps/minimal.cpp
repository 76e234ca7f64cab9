// Continue a text: xlstm-minimal BUNDLE "In the beginning "
#include <xlstm/xlstm.hpp>

#include <iostream>

int main(int argc, char** argv) try {
  if (argc != 3) return std::cerr << "usage: xlstm-minimal BUNDLE TEXT\n", 2;
  const auto model = xlstm::Model::load(argv[1]);  // weights: immutable, shared by all sessions
  auto session = model.session();                  // state: independent of other sessions
  const xlstm::ByteTokenizer tokenizer;
  xlstm::Sampler sampler({/*temperature*/ 0.8, /*top_k*/ 40, /*top_p*/ 0.95, /*seed*/ 1});

  xlstm::Logits logits = session.prefill(tokenizer.encode(argv[2]));
  for (int i = 0; i < 200; ++i) {
    const std::int64_t token = sampler(logits[0]);
    std::cout << static_cast<char>(token) << std::flush;
    logits = session.step(token);
  }
  session.save_file("conversation.state");  // continue later, with load_file, also in another process
  std::cout << "\n";
} catch (const xlstm::Error& error) {
  std::cerr << "error: " << error.what() << "\n";
  return 1;
}
