/** @file
 * Run an xLSTM bundle from C, and from whatever can call C. It wraps xlstm.hpp, which says more.
 *
 * Every function that can fail returns a status; xlstm_last_error() then says, in this thread, what is wrong, where,
 * and what to do. A call that fails leaves its objects as they were, unless its description, or the head of xlstm.hpp,
 * says otherwise. A model may be used from any number of threads, a
 * session or a sampler from one at a time. Handles are freed by their _free function, which accepts NULL; a model may
 * be freed before its sessions.
 */
#ifndef XLSTM_XLSTM_H
#define XLSTM_XLSTM_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define XLSTM_C_API __attribute__((visibility("default")))
#else
#define XLSTM_C_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
  XLSTM_OK = 0,
  XLSTM_ERROR_BUNDLE = 1,      /**< not a bundle, damaged, incomplete, or of another version */
  XLSTM_ERROR_UNAVAILABLE = 2, /**< a library, device or back end is not here */
  XLSTM_ERROR_ARGUMENT = 3,    /**< a value the caller gave is out of range, or a NULL */
  XLSTM_ERROR_STATE = 4,       /**< a saved state is damaged, of another version, or of another model */
  XLSTM_ERROR_RUNTIME = 5,     /**< the back end failed while running */
  XLSTM_ERROR_OTHER = 6        /**< out of memory, or an error of the library itself */
} xlstm_status;

typedef enum { XLSTM_BACKEND_AUTOMATIC = 0, XLSTM_BACKEND_ONNXRUNTIME = 1, XLSTM_BACKEND_TENSORRT = 2 } xlstm_backend;
typedef enum { XLSTM_DEVICE_AUTOMATIC = 0, XLSTM_DEVICE_CPU = 1, XLSTM_DEVICE_CUDA = 2 } xlstm_device;
typedef enum { XLSTM_ACTIVATIONS_INT8 = 0, XLSTM_ACTIVATIONS_FLOAT32 = 1 } xlstm_activations;

/** As xlstm::Options. Start from xlstm_default_options(); NULL paths are empty. */
typedef struct {
  size_t size; /**< of this struct, as set by xlstm_default_options() */
  xlstm_backend backend;
  xlstm_device device;
  int device_id;
  int threads;
  int cuda_graph;
  const char* onnxruntime_library;
  const char* custom_ops;
  const char* engine;
  const char* tensorrt_library;
  const char* plugin_library;
  int chunk;
  xlstm_activations activations;
} xlstm_options;

typedef enum { XLSTM_FLOAT32 = 0, XLSTM_INT64 = 1, XLSTM_INT32 = 2 } xlstm_dtype;

/** An input or an output of a model. */
typedef struct {
  const char* name;
  xlstm_dtype dtype;    /**< of outputs, XLSTM_FLOAT32 */
  const int64_t* shape; /**< begins with the batch; -1: any, or (of an output of mode "window") the run tells */
  size_t rank;
  int time_axis; /**< the dimension that is the number of positions of a pass; -1: there is none */
} xlstm_tensor;

/** What a model is fed under a name: `count` values of `dtype`, in row-major order. */
typedef struct {
  const char* name;
  xlstm_dtype dtype;
  const void* values;
  size_t count;
} xlstm_input;

/** What a pass gives: `count` values, dense, on the host. */
typedef struct {
  const char* name;
  const float* values;
  size_t count;
  const int64_t* shape;
  size_t rank;
} xlstm_output;

typedef struct xlstm_model xlstm_model;
typedef struct xlstm_session xlstm_session;
typedef struct xlstm_sampler xlstm_sampler;

XLSTM_C_API const char* xlstm_version(void);
/** The message of this thread's last failed call; "" before any. Valid until this thread's next call. */
XLSTM_C_API const char* xlstm_last_error(void);

XLSTM_C_API xlstm_options xlstm_default_options(void);
/** `options` NULL: the defaults. */
XLSTM_C_API xlstm_status xlstm_model_load(const char* bundle, const xlstm_options* options, xlstm_model** model);
XLSTM_C_API void xlstm_model_free(xlstm_model* model);
XLSTM_C_API const char* xlstm_model_mode(const xlstm_model* model);    /**< "step", "prefill", "both" or "window" */
XLSTM_C_API size_t xlstm_model_vocab_size(const xlstm_model* model);   /**< 0: it is no language model */
XLSTM_C_API size_t xlstm_model_input_width(const xlstm_model* model);  /**< values of a row; 0: only _run feeds it */
XLSTM_C_API size_t xlstm_model_output_width(const xlstm_model* model); /**< values of a row; 0: as above */
XLSTM_C_API size_t xlstm_model_state_bytes(const xlstm_model* model);  /**< of one sequence */
XLSTM_C_API int64_t xlstm_model_bos_token(const xlstm_model* model);   /**< every text begins with it; -1: with none */
/** How many tokens end a text; `*tokens`: these, owned by the model. */
XLSTM_C_API size_t xlstm_model_eos_tokens(const xlstm_model* model, const int64_t** tokens);

/** How many inputs and outputs there are; `*tensors`: these, owned by the model. */
XLSTM_C_API size_t xlstm_model_inputs(const xlstm_model* model, const xlstm_tensor** tensors);
XLSTM_C_API size_t xlstm_model_outputs(const xlstm_model* model, const xlstm_tensor** tensors);

XLSTM_C_API xlstm_status xlstm_session_create(const xlstm_model* model, int batch, xlstm_session** session);
XLSTM_C_API xlstm_status xlstm_session_fork(const xlstm_session* session, xlstm_session** fork);
XLSTM_C_API void xlstm_session_free(xlstm_session* session);

/** One token a row: tokens (batch). `*logits`: (batch, vocabulary) float32, owned by the session, valid until its next
 * step or prefill. */
XLSTM_C_API xlstm_status xlstm_session_step(xlstm_session* session, const int64_t* tokens, size_t count,
                                            const float** logits);
/** As xlstm_session_step, then draw a token for each row: drawn (batch). On a GPU, only the ids leave it. */
XLSTM_C_API xlstm_status xlstm_session_step_and_sample(xlstm_session* session, xlstm_sampler* sampler,
                                                       const int64_t* tokens, size_t count, int64_t* drawn);
/** Block stacks: inputs (batch, width), `count` values. */
XLSTM_C_API xlstm_status xlstm_session_step_vectors(xlstm_session* session, const float* inputs, size_t count,
                                                    const float** outputs);
/** tokens (batch, length), row by row, `count` of them; `*logits` after the last. After XLSTM_ERROR_RUNTIME the states
 * are those after the last good chunk; so for the two that follow. */
XLSTM_C_API xlstm_status xlstm_session_prefill(xlstm_session* session, const int64_t* tokens, size_t count,
                                               const float** logits);
/** Texts of different lengths: `tokens` holds them one after another, lengths (batch) says how long each is. `*logits`
 * of each row after its own last token, zeros for a row of length 0, which stays as it is. */
XLSTM_C_API xlstm_status xlstm_session_prefill_rows(xlstm_session* session, const int64_t* tokens,
                                                    const size_t* lengths, size_t rows, const float** logits);
/** Block stacks: inputs (batch, length, width), `count` values; `*outputs` (batch, width) at the last position. */
XLSTM_C_API xlstm_status xlstm_session_prefill_vectors(xlstm_session* session, const float* inputs, size_t count,
                                                       const float** outputs);
/** One pass of any model: each of its inputs once, in any order. How many positions there are follows from the counts.
 * `lengths`, (batch): how many positions of each row are there, the rest being padding; NULL: all. `*outputs`: as many
 * as the model has and in their order, owned by the session, valid until it is fed again. A pass with as many positions
 * as those before, and every pass of one position, allocates nothing. */
XLSTM_C_API xlstm_status xlstm_session_run(xlstm_session* session, const xlstm_input* inputs, size_t count,
                                           const int32_t* lengths, const xlstm_output** outputs);
/** Zero the states of one row, or of all for -1. */
XLSTM_C_API xlstm_status xlstm_session_reset(xlstm_session* session, int row);

/** Write at most `capacity` bytes of the saved state to `bytes`; `*size` is what it takes, also where that is more
 * (then XLSTM_ERROR_ARGUMENT) or where `bytes` is NULL (then XLSTM_OK). */
XLSTM_C_API xlstm_status xlstm_session_save(const xlstm_session* session, void* bytes, size_t capacity, size_t* size);
XLSTM_C_API xlstm_status xlstm_session_load(xlstm_session* session, const void* bytes, size_t size);
XLSTM_C_API xlstm_status xlstm_session_save_file(const xlstm_session* session, const char* path);
XLSTM_C_API xlstm_status xlstm_session_load_file(xlstm_session* session, const char* path);

/** temperature 0: greedy; top_k 0 and top_p 1: every token. */
XLSTM_C_API xlstm_status xlstm_sampler_create(double temperature, size_t top_k, double top_p, uint32_t seed,
                                              xlstm_sampler** sampler);
XLSTM_C_API void xlstm_sampler_free(xlstm_sampler* sampler);
XLSTM_C_API xlstm_status xlstm_sampler_draw(xlstm_sampler* sampler, const float* logits, size_t count, int64_t* token);

#ifdef __cplusplus
}
#endif

#endif
