// The launchers' arguments sent through the ONNX Runtime operators for CUDA instead: a kernel made from a node, and one
// computation on a stream, as ONNX Runtime's CUDA execution provider does it. The API behind them is a stand-in, which
// needs no ONNX Runtime and hands out whatever memory it is given, a GPU's too.
#pragma once

#include <cuda_runtime_api.h>

#include <functional>

#include "cells/cells.h"

std::function<cudaError_t(cudaStream_t)> through_operator(const xlstm::MlstmArgs& args);
std::function<cudaError_t(cudaStream_t)> through_operator(const xlstm::SlstmArgs& args);
