// A user's program: it knows the installed package alone. Prints the most likely next tokens.
#include <xlstm/xlstm.hpp>

#include <iostream>

int main(int, char** argv) {
  auto session = xlstm::Model::load(argv[1]).session();
  xlstm::Sampler greedy({0});
  std::int64_t token = 1;
  for (int i = 0; i < 10; ++i) std::cout << (token = greedy(session.step(token)[0])) << "\n";
}
