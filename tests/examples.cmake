adamd_test(NAME unit/test_example_network SOURCES unit/test_example_network.c USES adamd_example)
target_compile_definitions(test_example_network PRIVATE
  EXAMPLE_DATA="${PROJECT_SOURCE_DIR}/client/examples/data/digits.csv")
