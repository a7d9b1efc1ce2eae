# What comes from strangers as bytes: headers, messages, documents, envelopes; and its conversion.
adamd_test(NAME unit/test_safetensors SOURCES unit/test_safetensors.c USES adamd::core)
adamd_test(NAME unit/test_pt_read SOURCES unit/test_pt_read.c support/pt_files.c USES adamd::core)
adamd_test(NAME unit/test_pt_write SOURCES unit/test_pt_write.c USES adamd::core)
foreach(name json message envelope)
  adamd_test(NAME unit/test_${name} SOURCES unit/test_${name}.c USES adamd::codec)
endforeach()
adamd_test(NAME unit/test_problem SOURCES unit/test_problem.c USES adamd::codec PkgConfig::CJSON)
adamd_test(NAME unit/test_convert SOURCES unit/test_convert.c USES adamd::codec adamd::cpu)
adamd_test(NAME unit/test_tensors SOURCES unit/test_tensors.c USES adamd::codec)
adamd_test(NAME unit/test_cotangents SOURCES unit/test_cotangents.c USES adamd::codec)

add_subdirectory(fuzz)
