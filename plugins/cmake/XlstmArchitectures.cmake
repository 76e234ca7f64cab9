# xlstm_release_architectures(<nvcc> <output>)
#
# The GPU architectures of a release that this compiler knows: machine code for each, and PTX of the newest for those to
# come. Every CUDA drops old ones and learns new ones: 12.6 (JetPack 6) knows none after 90, 12.8 no 110, 13 none before
# 75.
function(xlstm_release_architectures nvcc output)
  set(release 75 80 86 87 89 90 100 110 120)
  execute_process(COMMAND "${nvcc}" --list-gpu-arch
    OUTPUT_VARIABLE listed ERROR_VARIABLE complaint RESULT_VARIABLE status)
  set(known "")
  set(left_out "")
  foreach(architecture IN LISTS release)
    if(listed MATCHES "compute_${architecture}[^0-9]")
      list(APPEND known "${architecture}-real")
    else()
      list(APPEND left_out "sm${architecture}")
    endif()
  endforeach()
  if(NOT status EQUAL 0 OR NOT known)
    message(FATAL_ERROR
      "${nvcc} --list-gpu-arch names no architecture of a release (${status}: ${complaint}${listed}). Choose yourself: "
      "`xlstm-export plugins build --target sm87`, or -DCMAKE_CUDA_ARCHITECTURES=87.")
  endif()
  if(left_out)
    list(JOIN left_out ", " left_out)
    message(STATUS "note: ${nvcc} does not know ${left_out}, which are left out of the release's GPU architectures.")
  endif()
  list(POP_BACK known newest)
  string(REPLACE "-real" "" newest "${newest}")
  list(APPEND known "${newest}")
  set(${output} "${known}" PARENT_SCOPE)
endfunction()
