/* The same in C. */
#include <xlstm/xlstm.h>

#include <stdio.h>

int main(int argc, char** argv) {
  xlstm_model* model = NULL;
  xlstm_session* session = NULL;
  xlstm_sampler* greedy = NULL;
  const float* logits = NULL;
  int64_t token = 1;
  if (argc != 2 || xlstm_model_load(argv[1], NULL, &model) || xlstm_session_create(model, 1, &session) ||
      xlstm_sampler_create(0, 0, 1, 0, &greedy)) {
    fprintf(stderr, "error: %s\n", xlstm_last_error());
    return 1;
  }
  for (int i = 0; i < 10; ++i) {
    if (xlstm_session_step(session, &token, 1, &logits)) return 1;
    if (xlstm_sampler_draw(greedy, logits, xlstm_model_vocab_size(model), &token)) return 1;
    printf("%d\n", (int)token);
  }
  xlstm_sampler_free(greedy);
  xlstm_session_free(session);
  xlstm_model_free(model);
  return 0;
}
