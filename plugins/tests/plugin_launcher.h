// The launchers' arguments sent through the TensorRT plugin instead: a creator, a plugin made from the fields that
// another one serialised, onShapeChange and enqueue, as an engine does it.
#pragma once

#include <cuda_runtime_api.h>

#include <functional>

#include "cells/cells.h"

std::function<cudaError_t(cudaStream_t)> through_plugin(const xlstm::MlstmArgs& args);
std::function<cudaError_t(cudaStream_t)> through_plugin(const xlstm::SlstmArgs& args, void* workspace);
