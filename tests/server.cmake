# What stands between the wire and the calls: the guard, targets, routes, ranges, settings, the log.
foreach(name IN ITEMS guard target router range config log)
  adamd_test(NAME unit/test_${name} SOURCES unit/test_${name}.c USES adamd::server)
endforeach()
