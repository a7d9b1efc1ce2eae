# The rules that the schema set itself. buf's linter, where it is at hand, is run by lint.sh.
find_package(Python3 REQUIRED COMPONENTS Interpreter)
find_program(PROTOC protoc REQUIRED)

add_test(NAME proto/schema COMMAND Python3::Interpreter
  ${CMAKE_CURRENT_SOURCE_DIR}/proto/schema.py ${PROJECT_BINARY_DIR}/proto/gen/adamd.binpb)

set(bad ${CMAKE_CURRENT_BINARY_DIR}/bad.binpb)
add_custom_command(
  OUTPUT ${bad}
  COMMAND ${PROTOC} -I ${CMAKE_CURRENT_SOURCE_DIR}/proto --include_imports
          --descriptor_set_out=${bad} adamd/v1/bad.proto
  DEPENDS proto/adamd/v1/bad.proto
  VERBATIM)
add_custom_target(adamd_bad_schema ALL DEPENDS ${bad})
add_test(NAME proto/schema_that_is_bad COMMAND Python3::Interpreter
  ${CMAKE_CURRENT_SOURCE_DIR}/proto/schema.py ${bad} --bad
  ${CMAKE_CURRENT_SOURCE_DIR}/proto/bad.expected)
