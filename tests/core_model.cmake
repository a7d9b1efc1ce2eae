# The model: workers, pushes, policy, versions, whole state.
add_library(adamd_modelkit STATIC support/modelkit.c)
target_link_libraries(adamd_modelkit
  PUBLIC adamd::test_backends adamd::cpu PkgConfig::CHECK PRIVATE adamd_warnings adamd_sanitizers)

foreach(noun workers push round manual published state model_failures model_events)
  adamd_test(NAME unit/test_${noun} SOURCES unit/test_${noun}.c USES adamd_modelkit)
endforeach()

adamd_test(NAME unit/test_model_bits SOURCES unit/test_model_bits.c USES adamd_modelkit)
