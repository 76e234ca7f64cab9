// MLSTMCell and SLSTMCell as ONNX Runtime custom operators: one OrtCustomOp for each cell, device and combination of
// types. ONNX Runtime merges operators of one name into one schema whose types are the union, and then takes the kernel
// whose types fit the node.
#pragma once

#include <onnxruntime_cxx_api.h>

#include "onnxruntime/device.h"

namespace xlstm::ort {

enum class Cell { kMlstm, kSlstm };

class CellOperator : public OrtCustomOp {
 public:
  // recurrent_type: of R; unused by the mLSTM. api_version: of the ONNX Runtime that loads the library.
  CellOperator(Cell cell, ONNXTensorElementDataType type, ONNXTensorElementDataType recurrent_type,
               const Device& device, uint32_t api_version);

  const Cell cell;
  const ONNXTensorElementDataType type, recurrent_type;
  const Device& device;
};

}  // namespace xlstm::ort
