# A room is a static library. Its public headers lie in <room>/include/adamd and are visible only to
# those who link the room, so an include that points the wrong way does not compile.

find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)
pkg_check_modules(PROTOBUF_C REQUIRED IMPORTED_TARGET libprotobuf-c>=1.4.1)
pkg_check_modules(CJSON REQUIRED IMPORTED_TARGET libcjson)
pkg_check_modules(LIBUV REQUIRED IMPORTED_TARGET libuv>=1.44)
pkg_check_modules(MICROHTTPD REQUIRED IMPORTED_TARGET libmicrohttpd>=0.9.75)
pkg_check_modules(XXHASH REQUIRED IMPORTED_TARGET libxxhash)

# What all of our code is compiled with. -ffp-contract=off is part of the algorithm.
add_library(adamd_warnings INTERFACE)
target_compile_definitions(adamd_warnings INTERFACE _POSIX_C_SOURCE=200809L)
target_compile_options(adamd_warnings INTERFACE
  -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wstrict-prototypes -Wmissing-prototypes -Wvla
  -Walloca -Wformat=2 -Wundef -ffp-contract=off -fno-common
  -fstack-protector-strong -fvisibility=hidden
  $<$<BOOL:${ADAMD_WERROR}>:-Werror>)
if(NOT ADAMD_SANITIZE) # sanitizers look at what it hides; and it needs an optimising build
  target_compile_options(adamd_warnings INTERFACE $<$<NOT:$<CONFIG:Debug>>:-D_FORTIFY_SOURCE=2>)
endif()

add_library(adamd_sanitizers INTERFACE)
if(ADAMD_SANITIZE)
  target_compile_options(adamd_sanitizers INTERFACE
    -fsanitize=${ADAMD_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  target_link_options(adamd_sanitizers INTERFACE -fsanitize=${ADAMD_SANITIZE})
endif()
if(ADAMD_FUZZ)
  target_compile_options(adamd_sanitizers INTERFACE -fsanitize=fuzzer-no-link)
endif()

set(CMAKE_POSITION_INDEPENDENT_CODE ON)

# adamd_room(core SOURCES status.c store.c USES adamd::proto LINKS m)
function(adamd_room name)
  cmake_parse_arguments(ROOM "" "" "SOURCES;USES;LINKS" ${ARGN})
  add_library(adamd_${name} STATIC ${ROOM_SOURCES})
  add_library(adamd::${name} ALIAS adamd_${name})
  target_include_directories(adamd_${name}
    PUBLIC $<BUILD_INTERFACE:${CMAKE_CURRENT_SOURCE_DIR}/include>
    PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
  target_link_libraries(adamd_${name}
    PUBLIC ${ROOM_USES} PRIVATE ${ROOM_LINKS} adamd_warnings adamd_sanitizers)
endfunction()
