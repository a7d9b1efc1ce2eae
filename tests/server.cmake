# A plugin as its author would build it: with one header, beside the daemon for the integration tests.
add_library(plugin_half MODULE support/plugin_half.c)
target_include_directories(plugin_half PRIVATE ${CMAKE_SOURCE_DIR}/core/include)
target_link_libraries(plugin_half PRIVATE m adamd_warnings)
set_target_properties(plugin_half PROPERTIES PREFIX ""
  LIBRARY_OUTPUT_DIRECTORY ${CMAKE_RUNTIME_OUTPUT_DIRECTORY})

# What stands between the wire and the calls: the guard, targets, routes, ranges, settings, the log.
foreach(name IN ITEMS guard target router range config log)
  adamd_test(NAME unit/test_${name} SOURCES unit/test_${name}.c USES adamd::server)
endforeach()
