# What comes from strangers as bytes: headers, messages, documents, envelopes; and its conversion.
adamd_test(NAME unit/test_safetensors SOURCES unit/test_safetensors.c USES adamd::core)
