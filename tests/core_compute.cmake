# The compute half of core: options, layout, backends and their kernels.

# Backends that tests steer, for everybody's tests.
add_library(adamd_test_backends STATIC
  support/plain_ops.c support/backend_deferred.c support/backend_faulty.c)
add_library(adamd::test_backends ALIAS adamd_test_backends)
target_include_directories(adamd_test_backends PUBLIC ${CMAKE_CURRENT_SOURCE_DIR}/support)
# Also in a debug build: what the plain loops take is most of what some tests take.
target_compile_options(adamd_test_backends PRIVATE -O2)
target_link_libraries(adamd_test_backends
  PUBLIC adamd::core m PRIVATE adamd_warnings adamd_sanitizers)

# One suite over the contract of a backend, for each backend that this machine can run.
add_library(adamd_conformance STATIC conformance/subject.c conformance/scene.c
  conformance/values.c)
target_compile_options(adamd_conformance PRIVATE -O2) # as above
target_include_directories(adamd_conformance PUBLIC ${CMAKE_CURRENT_SOURCE_DIR}/conformance)
target_link_libraries(adamd_conformance
  PUBLIC adamd::cpu adamd::test_backends PkgConfig::CHECK PRIVATE adamd_warnings adamd_sanitizers)

foreach(suite step ops differentiate golden)
  adamd_test(NAME conformance/test_backend_${suite} SOURCES conformance/test_backend_${suite}.c
    USES adamd_conformance)
endforeach()

foreach(noun status crc32c differentiate options layout queue)
  adamd_test(NAME unit/test_${noun} SOURCES unit/test_${noun}.c USES adamd::test_backends)
endforeach()

# This machine may lack an instruction set that was built: its object is read instead.
get_property(isas GLOBAL PROPERTY ADAMD_ISAS)
foreach(isa IN LISTS isas)
  add_test(NAME conformance/kernel_object_${isa}
    COMMAND ${CMAKE_COMMAND} -DOBJDUMP=${CMAKE_OBJDUMP} -DNM=${CMAKE_NM} -DVARIANT=${isa}
      -DOBJECT=$<TARGET_OBJECTS:adamd_kernel_${isa}> -DSANITIZED=${ADAMD_SANITIZE}
      -DCOMPILER=${CMAKE_C_COMPILER_ID}
      -P ${CMAKE_CURRENT_SOURCE_DIR}/conformance/test_kernel_objects.cmake)
endforeach()
