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
endif()
