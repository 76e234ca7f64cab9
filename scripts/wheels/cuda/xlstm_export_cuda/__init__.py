"""Native libraries of xlstm-export with CUDA, in lib/, where xlstm-export finds them: `libxlstm_tensorrt.so` for
TensorRT 10.3 to 11.x, and `libxlstm_onnxruntime.so` with kernels for CPUs and CUDA. There is nothing to import."""
