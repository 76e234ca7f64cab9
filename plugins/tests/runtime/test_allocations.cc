// Counts every allocation of the process: a step makes not one more than the bare call of ONNX Runtime makes itself, by
// whatever name.
#include <dlfcn.h>

#include <algorithm>
#include <atomic>

#include "bare_session.h"
#include "check.h"

namespace {
std::atomic<bool> counting{false};
std::atomic<long> allocations{0};
void note() {
  if (counting.load(std::memory_order_relaxed)) allocations.fetch_add(1, std::memory_order_relaxed);
}
}  // namespace

// The program's own definitions take precedence over the C library's in every library it loads.
// NOLINTBEGIN(readability-inconsistent-declaration-parameter-name): the C library's names are reserved
extern "C" {
void* __libc_malloc(std::size_t);
void* __libc_calloc(std::size_t, std::size_t);
void* __libc_realloc(void*, std::size_t);
void* __libc_memalign(std::size_t, std::size_t);

void* malloc(std::size_t size) {
  note();
  return __libc_malloc(size);
}
void* calloc(std::size_t count, std::size_t size) {
  note();
  return __libc_calloc(count, size);
}
void* realloc(void* old, std::size_t size) {
  note();
  return __libc_realloc(old, size);
}
void* memalign(std::size_t alignment, std::size_t size) {
  note();
  return __libc_memalign(alignment, size);
}
void* aligned_alloc(std::size_t alignment, std::size_t size) { return memalign(alignment, size); }
int posix_memalign(void** result, std::size_t alignment, std::size_t size) {
  *result = memalign(alignment, size);
  return *result ? 0 : 12;
}
}
// NOLINTEND(readability-inconsistent-declaration-parameter-name)

template <class Body>
long count(int times, Body&& body) {
  allocations = 0;
  counting = true;
  for (int i = 0; i < times; ++i) body();
  counting = false;
  return allocations;
}

// In a round of `times`, the least of three rounds: once in thousands of runs ONNX Runtime allocates some more.
template <class Body>
long count_of_rounds(int times, Body&& body) {
  long least = count(times, body);
  for (int round = 0; round < 2; ++round) least = std::min(least, count(times, body));
  return least;
}

int main() {  // NOLINT(bugprone-exception-escape): a test may end so
  const std::string bundle = test_bundle();
  const auto model = xlstm::Model::load(bundle, test_options());
  auto session = model.session();
  BareSession bare(bundle, 1);
  CHECK(count(1, [] { ::operator delete(::operator new(1)); }) == 1);  // the hook works

  constexpr int kWarm = 20, kSteps = 200;
  for (int i = 0; i < kWarm; ++i) bare.run(), session.step(0);
  const long alone = count_of_rounds(kSteps, [&] { bare.run(); });
  const long wrapped = count_of_rounds(kSteps, [&] { session.step(0); });
  CHECK(alone > 0);
  std::printf("allocations in a step: %.2f, of which ONNX Runtime's own: %.2f\n", double(wrapped) / kSteps,
              double(alone) / kSteps);
  CHECK(wrapped == alone);

  // Prefill leaves that as it is.
  const std::vector<std::int64_t> text(300);
  session.prefill(text);
  session.step(0);
  CHECK(count_of_rounds(kSteps, [&] { session.step(0); }) == alone);

  // By name it is the same, and so is every pass with as many positions as the one before.
  const std::vector<std::int64_t> token{0};
  const auto by_name = [&] { session.run({{"tokens", token}}); };
  CHECK(count_of_rounds(kSteps, by_name) == alone);
  const std::int32_t idle[] = {0};
  session.run({{"tokens", token}}, idle);
  CHECK(count_of_rounds(kSteps, [&] { session.run({{"tokens", token}}, idle), by_name(); }) == 2 * alone);
  const auto whole_text = [&] { session.run({{"tokens", text}}); };
  const long first = count(2, whole_text);  // binds them, for either set of states
  CHECK(count(2, whole_text) < first);

  xlstm::Sampler sampler({0.8, 40, 0.95, 1});
  auto logits = session.step(0);
  sampler(logits[0]);
  CHECK(count_of_rounds(kSteps, [&] { sampler(logits[0]); }) == 0);
  CHECK(count_of_rounds(kSteps, [&] {
          session.reset();
          session.reset(0);
        }) == 0);
}
