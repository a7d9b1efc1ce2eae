# Benchmarks: built with everything else, never run as tests. They print the machine, the peer and the
# ratio; see bench/README.md.

# adamd_bench(NAME bench_step SOURCES bench/bench_step.c USES adamd::core)
function(adamd_bench)
  cmake_parse_arguments(B "" "NAME" "SOURCES;USES" ${ARGN})
  add_executable(${B_NAME} ${B_SOURCES} bench/bench_support.c)
  target_link_libraries(${B_NAME} PRIVATE ${B_USES} Threads::Threads adamd_warnings
    adamd_sanitizers)
endfunction()

adamd_bench(NAME bare_step SOURCES bench/bare_step.c USES adamd::cpu)
adamd_bench(NAME bare_sink SOURCES bench/bare_sink.c)
if(TARGET adamd::client)
  adamd_bench(NAME bench_push_step_pull
    SOURCES bench/bench_push_step_pull.c bench/raw_exchange.c USES adamd::client)
  add_dependencies(bench_push_step_pull bare_step)
  adamd_bench(NAME bare_push_pull SOURCES bench/bare_push_pull.c USES adamd::client)
endif()

# The bare loop of bench_step, for each instruction set, as the kernels are compiled.
get_property(isas GLOBAL PROPERTY ADAMD_ISAS)
foreach(isa IN LISTS isas)
  get_property(isa_flags GLOBAL PROPERTY ADAMD_ISA_FLAGS_${isa})
  add_library(bare_loop_${isa} OBJECT bench/bare_loop.c)
  target_compile_definitions(bare_loop_${isa} PRIVATE
    BARE_LOOP=bare_loop_${isa} BARE_LOOP_VARIANT="${isa}")
  target_link_libraries(bare_loop_${isa} PRIVATE adamd::core adamd_warnings adamd_sanitizers)
  target_compile_options(bare_loop_${isa} PRIVATE ${isa_flags})
  list(APPEND bare_loops $<TARGET_OBJECTS:bare_loop_${isa}>)
endforeach()
adamd_bench(NAME bench_step SOURCES bench/bench_step.c ${bare_loops} USES adamd::cpu m)
