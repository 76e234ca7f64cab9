// The kernels' own sources, compiled by the C++ compiler.
#include "cells/cuda/mlstm.cu"
#include "cells/cuda/mlstm_chunkwise.cu"
#include "cells/cuda/slstm.cu"
