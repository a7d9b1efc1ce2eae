# The model: workers, pushes, policy, versions, whole state.
add_library(adamd_modelkit STATIC support/modelkit.c)
target_link_libraries(adamd_modelkit
  PUBLIC adamd::test_backends adamd::cpu PkgConfig::CHECK PRIVATE adamd_warnings adamd_sanitizers)

foreach(noun model_hooks workers push round manual published state model_differentiate model_events groups
    growth)
  adamd_test(NAME unit/test_${noun} SOURCES unit/test_${noun}.c USES adamd_modelkit)
endforeach()

adamd_test(NAME unit/test_actions SOURCES unit/test_actions.c USES adamd::core)
# The lists of hooks are core's own.
adamd_test(NAME unit/test_hooks SOURCES unit/test_hooks.c USES adamd::core
  INCLUDES ${CMAKE_SOURCE_DIR}/core)

adamd_test(NAME unit/test_model_bits SOURCES unit/test_model_bits.c USES adamd_modelkit)

# Core once more, with allocations of which the test lets the n-th fail.
get_target_property(core_sources adamd_core SOURCES)
get_target_property(core_folder adamd_core SOURCE_DIR)
list(TRANSFORM core_sources PREPEND ${core_folder}/)
add_library(adamd_core_counted STATIC ${core_sources})
target_include_directories(adamd_core_counted PRIVATE ${core_folder} ${core_folder}/include)
target_compile_definitions(adamd_core_counted PRIVATE
  malloc=test_malloc calloc=test_calloc realloc=test_realloc)
target_link_libraries(adamd_core_counted PRIVATE
  PkgConfig::XXHASH Threads::Threads adamd_warnings adamd_sanitizers)
adamd_test(NAME unit/test_hook_failures SOURCES unit/test_hook_failures.c
  USES adamd_core_counted adamd_modelkit)
adamd_test(NAME unit/test_model_failures SOURCES unit/test_model_failures.c
  USES adamd_core_counted adamd_modelkit)
adamd_test(NAME unit/test_pt_failures SOURCES unit/test_pt_failures.c support/pt_files.c
  USES adamd_core_counted adamd::core)
