# The client library, against a daemon that does what a script says.
foreach(name IN ITEMS client_push client_calls client_hooks client_optim)
  adamd_test(NAME unit/test_${name}
    SOURCES unit/test_${name}.c support/client_fixture.c support/fake_daemon.c
    USES adamd_client_inside Threads::Threads)
endforeach()
adamd_test(NAME unit/test_client_http SOURCES unit/test_client_http.c USES adamd_client_inside)

# ... and against the real one, through the library as others link it.
adamd_test(NAME integration/test_client_daemon
  SOURCES integration/test_client_daemon.c
  USES adamd::client Threads::Threads m
  ARGS $<TARGET_FILE:adamd>)
add_dependencies(test_client_daemon adamd)
