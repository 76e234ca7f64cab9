/* The CUDA driver's calls that xlstm_export.engines.cuda_driver makes, on host memory: one "device", in order.
   Copies to the host and within the device happen only when the stream is synchronised, as they may on a GPU, or before
   what was asked for after them. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
  void* to;
  uint64_t from;
  size_t size;
} Copy;
static Copy pending[4096];
static int pending_count, initialised, contexts, streams, allocations;
static _Thread_local int current;
enum { OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, INVALID_CONTEXT = 201 };

int cuInit(unsigned flags) {
  initialised = flags == 0;
  return initialised ? OK : INVALID_VALUE;
}
int cuDriverGetVersion(int* version) {
  *version = 13010;
  return OK;
}
int cuDeviceGetCount(int* count) {
  *count = 1;
  return initialised ? OK : NOT_INITIALIZED;
}
int cuDeviceGetName(char* name, int size, int device) {
  if (device != 0) return INVALID_VALUE;
  strncpy(name, "Test device", size);
  return OK;
}
int cuDeviceTotalMem_v2(size_t* bytes, int device) {
  *bytes = (size_t)24 << 30;
  return device ? INVALID_VALUE : OK;
}
int cuDeviceGetAttribute(int* value, int attribute, int device) {
  if (device != 0 || (attribute != 75 && attribute != 76)) return INVALID_VALUE;
  *value = attribute == 75 ? 8 : 9;
  return OK;
}
int cuDevicePrimaryCtxRetain(void** context, int device) {
  *context = &contexts;
  contexts++;
  return device ? INVALID_VALUE : OK;
}
int cuDevicePrimaryCtxRelease_v2(int device) {
  contexts--;
  return device ? INVALID_VALUE : OK;
}
int cuCtxSetCurrent(void* context) {
  current = context == &contexts;
  return current ? OK : INVALID_VALUE;
}
int cuStreamCreate(void** stream, unsigned flags) {
  if (!current || flags != 1) return INVALID_CONTEXT;
  *stream = &pending;
  streams++;
  return OK;
}
int cuStreamSynchronize(void* stream) {
  if (stream != &pending) return INVALID_VALUE;
  if (!current) return INVALID_CONTEXT;
  for (int i = 0; i < pending_count; i++) memcpy(pending[i].to, (void*)pending[i].from, pending[i].size);
  pending_count = 0;
  return OK;
}
int cuStreamDestroy_v2(void* stream) {
  streams--;
  return stream == &pending ? OK : INVALID_VALUE;
}
int cuMemAlloc_v2(uint64_t* address, size_t size) {
  if (size >= (size_t)24 << 30) return OUT_OF_MEMORY;
  void* memory = aligned_alloc(256, (size + 255) / 256 * 256);
  memset(memory, 0xff, size); /* NaN: what is read before it is written shows */
  *address = (uint64_t)memory;
  allocations++;
  return OK;
}
int cuMemFree_v2(uint64_t address) {
  free((void*)address);
  allocations--;
  return OK;
}
int cuMemsetD8Async(uint64_t to, unsigned char value, size_t size, void* stream) {
  const int code = cuStreamSynchronize(stream);
  if (code == OK) memset((void*)to, value, size);
  return code;
}
int cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t size, void* stream) {
  const int code = cuStreamSynchronize(stream);
  if (code == OK) memcpy((void*)to, from, size);
  return code;
}
int cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t size, void* stream) {
  if (!current) return INVALID_CONTEXT;
  if (stream != &pending || pending_count == 4096) return INVALID_VALUE;
  pending[pending_count++] = (Copy){to, from, size};
  return OK;
}
int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t size, void* stream) {
  return cuMemcpyDtoHAsync_v2((void*)to, from, size, stream);
}
int cuGetErrorString(int code, const char** text) {
  *text = code == OUT_OF_MEMORY ? "out of memory" : "invalid";
  return OK;
}

int fake_live(void) { return contexts + streams + allocations; }
