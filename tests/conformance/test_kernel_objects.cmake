# Goal: what cannot be executed here is at least read. Each kernel's object, of every instruction set
# that was built, must take square roots and quotients by the correctly rounded instructions (no
# reciprocal estimates), as vectors, and export its table and nothing else.
#
#     cmake -DOBJDUMP=... -DNM=... -DOBJECT=... -DVARIANT=... -DSANITIZED=... -DCOMPILER=... -P test_kernel_objects.cmake
execute_process(COMMAND ${OBJDUMP} -d --no-show-raw-insn ${OBJECT} OUTPUT_VARIABLE code
  RESULT_VARIABLE failed)
if(failed)
  message(FATAL_ERROR "${OBJDUMP} cannot read ${OBJECT}")
endif()

# x86: rcpps, rsqrtss, vrcp14ps, vrsqrt28ss, ...; aarch64: frecpe, frsqrte.
string(REGEX MATCH "[^\n]*(v?rcp(14|28)?[ps]|v?rsqrt(14|28)?[ps]|frecpe|frsqrte)[^\n]*" estimate "${code}")
if(estimate)
  message(FATAL_ERROR "${VARIANT}: an estimate instead of a rounded result: ${estimate}")
endif()

# What gcc must make of the loops: it is what the daemon is shipped with. clang 14 gives the same bits
# from scalars. base calls fmaf, which keeps its loop scalar.
set(vectors_avx2 "vsqrtps[^\n]*%ymm" "vdivps[^\n]*%ymm" "vfn?madd[0-9]+ps[^\n]*%ymm")
set(vectors_avx512 "vsqrtps[^\n]*%zmm" "vdivps[^\n]*%zmm" "vfn?madd[0-9]+ps[^\n]*%zmm")
set(vectors_neon "fsqrt[^\n]*v[0-9]+\\.4s" "fdiv[^\n]*v[0-9]+\\.4s" "fml[as][^\n]*v[0-9]+\\.4s")
if(NOT SANITIZED AND COMPILER STREQUAL "GNU")
  foreach(instruction IN LISTS vectors_${VARIANT})
    string(REGEX MATCH "${instruction}" found "${code}")
    if(NOT found)
      message(FATAL_ERROR "${VARIANT}: the loop is not made of vectors: no ${instruction}")
    endif()
  endforeach()
endif()

execute_process(COMMAND ${NM} --defined-only --extern-only ${OBJECT} OUTPUT_VARIABLE symbols)
string(REGEX MATCHALL "[^\n]+" symbols "${symbols}")
list(FILTER symbols EXCLUDE REGEX " (adamd_kernel_${VARIANT}|__odr_asan[^ ]*)$")
if(symbols)
  message(FATAL_ERROR "${VARIANT}: exports more than its table: ${symbols}")
endif()
message(STATUS "${VARIANT}: read")
